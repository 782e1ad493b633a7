"""Writes predictions as CSV or JSON Lines, a whole chunk at a time, so that an interruption loses none."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from models.errors import BadData

if TYPE_CHECKING:
    from carryover import Answer, Prediction


JSON_START = '{"position": '


@dataclass(frozen=True)
class Written:
    """The predictions of a file.

    first, last : positions of its first and last row
    label : the last row's, if labels are written
    """

    first: int
    last: int
    label: Any = None


@dataclass(frozen=True)
class Layout:
    """Columns of the written rows.

    targets : predicted columns
    label : name of the column that is copied from the input
    level, score : whether there are intervals and the surprise
    """

    targets: Sequence[str]
    label: str | None = None
    level: bool = False
    score: bool = False
    as_json: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the columns; one that is there already, such as a target `position`, gets a number."""
        from carryover.tables import distinct

        ends = [f"{target}_{end}" for end in ("lower", "upper") for target in self.targets]
        return distinct(
            [
                "position",
                *([self.label] if self.label is not None else []),
                *self.targets,
                *(ends if self.level else []),
                *(["score"] if self.score else []),
            ]
        )

    def row(self, prediction: Prediction, label: Any) -> list[Any]:
        """The values of one row."""
        ends = [*self._numbers(prediction.lower), *self._numbers(prediction.upper)]
        return [
            prediction.position,
            *([label] if self.label is not None else []),
            *self._numbers(prediction.value),
            *(ends if self.level else []),
            *([prediction.score] if self.score else []),
        ]

    def _numbers(self, value: Any) -> list[Any]:
        """One value for each target; None for NaN."""
        row = numbers_of(value) if isinstance(value, list | dict) else [value] * len(self.targets)
        return [None if number is None or math.isnan(number) else number for number in row]

    def text(self, rows: Iterable[Sequence[Any]]) -> str:
        """Rows as lines."""
        if not self.as_json:
            return csv_lines(rows)
        names = self.names
        documents = [dict(zip(names, row, strict=True)) for row in rows]
        return "".join(json.dumps(document, default=str) + "\n" for document in documents)

    def write(self, out: IO[str], answer: Answer, labels: Sequence[Any]) -> None:
        """Write the rows of a chunk, and flush."""
        pairs = zip(answer, labels, strict=True)
        out.write(self.text(self.row(prediction, label) for prediction, label in pairs))
        out.flush()

    def write_header(self, out: IO[str]) -> None:
        """Write the header, if the format has one."""
        if not self.as_json:
            out.write(csv_lines([self.names]))

    def read_written(self, path: Path) -> Written | None:
        """What a file of predictions has; an incomplete last row is removed from it. A pipe has nothing.

        Raises
        ------
        BadData : the file has something else
        """
        if not path.is_file():
            return None
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        lines = whole.splitlines()
        foreign = BadData(f"{path} does not have such predictions: choose another --out")
        if self.as_json:
            begins = (lines or [text])[0].startswith(JSON_START[: len(text)])
        else:
            header = csv_lines([self.names])
            begins = whole.startswith(header) or header.startswith(text)
            lines = lines[1:]
        if not begins:
            raise foreign
        if whole != text:
            os.truncate(path, len(whole.encode()))
        if not lines:
            return None
        try:
            first, last = self._parse(lines[0]), self._parse(lines[-1])
            label = None if self.label is None else last[self.names[1]]
            return Written(int(first["position"]), int(last["position"]), label)
        except (ValueError, KeyError, TypeError):
            raise foreign from None

    def _parse(self, line: str) -> dict[str, Any]:
        if self.as_json:
            return dict(json.loads(line))
        return dict(zip(self.names, next(csv.reader([line])), strict=True))


def numbers_of(value: Any) -> list[Any]:
    """The numbers of nested lists, and of outputs by name, in their order."""
    if not isinstance(value, list | dict):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [number for part in parts for number in numbers_of(part)]


def csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()
