"""Numbers in sentences."""

from __future__ import annotations

import pytest

from models.wording import counted


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions"), (1000, "1000 sessions")]
)
def test_one_thing_is_singular(number: int, said: str) -> None:
    assert counted(number, "session") == said
