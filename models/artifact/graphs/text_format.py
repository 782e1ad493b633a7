"""Reads protobuf's text format without a schema: what is not known stays as it is, and can be skipped.

    name: "net"  sequence_batching { state [ { dims: [ 1 ] } ] }
    -> {"name": ["net"], "sequence_batching": [{"state": [{"dims": [1]}]}]}

protobuf's own parser takes fields that it does not know, but no lists of messages among them, which Triton's
configurations are full of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from models.errors import BadArtifact

MAX_DEPTH = 32
TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
    | (?P<number>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?))
    | (?P<word>-?[A-Za-z_][\w./-]*) | (?P<sign>[\[\]{}<>:,;])""",
    re.VERBOSE,
)
CLOSING = {"{": "}", "<": ">"}

Message = dict[str, list[Any]]


def parse_text(text: str) -> Message:
    """Fields by name, each a list of its values: text, numbers, words and messages.

    Raises
    ------
    BadArtifact
        With the line.
    """
    return _Parser(text).message(None, 0)


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def message(self, end: str | None, depth: int) -> Message:
        """The fields up to a closing sign, or to the end of the text."""
        if depth > MAX_DEPTH:
            raise BadArtifact(f"line {self._line}: nested deeper than {MAX_DEPTH} messages")
        fields: Message = {}
        while (token := self._next())[1] != end:
            kind, name, line = token
            if kind != "word":
                raise BadArtifact(f"line {line}: {name!r} is where the name of a field is expected")
            self._accept(":")
            fields.setdefault(name, []).extend(self._values(depth))
            self._accept(",") or self._accept(";")
        return fields

    def _values(self, depth: int) -> list[Any]:
        """Those of a field: one, or the members of a list."""
        if not self._accept("["):
            return [self._value(depth)]
        values: list[Any] = []
        while not self._accept("]"):
            values.append(self._value(depth))
            self._accept(",")
        return values

    def _value(self, depth: int) -> Any:
        kind, text, line = self._next()
        if text in CLOSING and kind == "sign":
            return self.message(CLOSING[text], depth + 1)
        if kind == "string":
            while self._peek()[0] == "string":  # strings beside one another are one
                text = text[:-1] + self._next()[1][1:]
            return re.sub(r"\\(.)", r"\1", text[1:-1])
        if kind == "number":
            return float(text) if re.search(r"[.eE]", text) else int(text)
        if kind == "word":
            return {"true": True, "false": False}.get(text, text)
        raise BadArtifact(f"line {line}: {text or 'the end'!r} is where a value is expected")

    def _accept(self, sign: str) -> bool:
        found = self._peek()[:2] == ("sign", sign)
        self._at += found
        return found

    def _peek(self) -> tuple[str, Any, int]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", None, self._line)

    def _next(self) -> tuple[str, Any, int]:
        token = self._peek()
        self._at += 1
        return token

    @property
    def _line(self) -> int:
        return self._tokens[-1][2] if self._tokens else 1


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each."""
    at, line = 0, 1
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise BadArtifact(f"line {line}: {text[at : at + 20]!r} is not read")
        if found.lastgroup is not None:
            yield found.lastgroup, found[0], line
        line += found[0].count("\n")
        at = found.end()
