"""Names of models."""

import re

from models.errors import BadArtifact

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def check_name(name: str) -> None:
    """Refuse a model name that cannot be part of a URL.

    Raises
    ------
    BadArtifact
    """
    if not NAME.fullmatch(name):
        raise BadArtifact(
            f"name {name[:99]!r} must be 1 to 128 characters of A-Z a-z 0-9 . _ - and not begin with . or -"
        )
