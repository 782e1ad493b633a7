"""Session ids, topics and streams from templates such as `{topic}`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.connectors.source import BadMessage

_FIELD = re.compile(r"\{([^{}]*)\}")
_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:-]{1,128}")


class Template:
    """A text with names in braces, such as `predictions/{topic}`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.names = frozenset(_FIELD.findall(text))

    def fill(self, values: Mapping[str, str]) -> str:
        """Put the values in.

        Raises
        ------
        BadMessage : a name has no value
        """
        try:
            return _FIELD.sub(lambda found: values[found[1]], self.text)
        except KeyError as error:
            raise BadMessage(f"it has no {error.args[0]!r}, which {self.text!r} needs") from None


def session_id(template: Template, values: Mapping[str, str], slashes: bool) -> str:
    """Return the id of the session that a message belongs to.

    Parameters
    ----------
    slashes : values are topics; their slashes become colons. A topic with a colon is refused, so that two
        topics never share a session by accident.

    Raises
    ------
    BadMessage : the result is not a session id
    """
    if slashes:
        used = {name: value for name, value in values.items() if name in template.names}
        for value in used.values():
            if ":" in value:
                raise BadMessage(f"{value!r} has a colon, which stands for a slash in session ids")
        values = {name: value.replace("/", ":") for name, value in used.items()}
    found = template.fill(values)
    if not _ID.fullmatch(found):
        raise BadMessage(f"{found[:150]!r} is not a session id: 1 to 128 of A-Z a-z 0-9 . _ : -")
    return found
