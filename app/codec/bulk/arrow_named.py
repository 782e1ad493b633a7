"""The inputs of an Arrow request by name, and the outputs of its answer: a column for each.

    session | audio                                | gain     | at
    "a"     | [[0.1, 0.2, 0.3, 0.4], [0.5, ...]]   | [1, 0.5] | 0

A table without `observations` has them. An entry is a list of steps, and a step is a number or lists nested
as deep as the shape of the input; a bare number is a single step. The answer has for each output a list of
steps, of the output's own type. An input that has the name of another column of a request is the column
`inputs.NAME`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.codec.bulk.arrow_arrays import doubles, is_list, is_number, leaf, list_lengths, list_offsets
from app.codec.chunks import check_inputs
from app.codec.limits import MAX_FLOAT32, Limits
from app.errors import TooLarge, Unprocessable, list_names
from app.jobs.answers import BulkAnswer
from models.arrays import Bools, Doubles, Ints, Numbers
from models.nets.signature import MAX_RANK

PREFIX = "inputs."
MAX_ENTRIES = 50_000  # an entry may have a single bit, and takes 2.5 us: 0.13 s of one core for all


def input_of(column: str, others: Sequence[str]) -> str:
    """The input that a column has the numbers of: `at` of the column `inputs.at`.

    Only what hides one of the `others`, at any depth, is unwrapped, and once. So an input that is itself
    called `inputs.at` is the column `inputs.inputs.at`, and all other inputs are columns of their own name.
    """
    hides = re.fullmatch(rf"(?:{re.escape(PREFIX)})+(?:{'|'.join(others)})", column)
    return column.removeprefix(PREFIX) if hides else column


def input_indexes(pa: Any, schema: Any, others: Sequence[str]) -> list[int]:
    """Where the columns of the inputs are, after a check of their names and their types.

    Parameters
    ----------
    others : names of the columns that are no inputs

    Raises
    ------
    Unprocessable : a name is given twice, or a column has no numbers
    """
    columns = [(i, name) for i, name in enumerate(schema.names) if name not in others]
    names = [name for _, name in columns]
    for name, count in Counter(names).items():
        if count > 1:
            raise Unprocessable(
                f"the column {name[:80]!r} is given {count} times; the request has {list_names(names)}",
                field="inputs",
            )
    for i, name in columns:
        kind = schema.field(i).type
        numbers = leaf(pa, kind, MAX_RANK)
        if not (is_number(pa, numbers) or pa.types.is_boolean(numbers)):
            raise Unprocessable(
                f"the column {name[:80]!r} cannot be of type {str(kind)[:80]}: "
                "an input needs numbers or lists of numbers",
                field="inputs",
            )
    return [i for i, _ in columns]


@dataclass(frozen=True)
class InputColumn:
    """The numbers of one input, of n chunks.

    offsets : by depth, where each list begins among the lists or numbers that it holds, and the end of the
        last; the lists of the first depth are the chunks
    numbers : [total], NaN where null
    wrong : [total + 1], how many numbers before this index are null or not finite in float32
    """

    name: str
    offsets: list[Ints]
    numbers: Doubles
    wrong: Ints

    def chunk(self, i: int) -> Doubles:
        """[steps, ...] of the chunk at this index.

        Raises
        ------
        Unprocessable : names the input
        """
        start, stop = self.offsets[0][i : i + 2].tolist()
        shape = [stop - start]
        for offsets in self.offsets[1:]:
            sizes = np.diff(offsets[start : stop + 1])
            if (sizes != sizes[:1]).any():
                raise Unprocessable(f"inputs.{self.name[:80]} has rows that differ in shape", field="inputs")
            shape.append(int(sizes[0]) if len(sizes) else 0)
            start, stop = int(offsets[start]), int(offsets[stop])
        if self.wrong[stop] > self.wrong[start]:
            raise Unprocessable(
                f"inputs.{self.name[:80]} has a value that is missing or not a finite float32", field="inputs"
            )
        return self.numbers[start:stop].reshape(shape)


def read_input(pa: Any, name: str, column: Any, most: int) -> InputColumn:
    """The numbers of a column.

    Raises
    ------
    TooLarge : more numbers than `most`
    """
    offsets = []
    if not is_list(pa, column.type):
        offsets.append(np.arange(len(column) + 1))
    while is_list(pa, column.type):
        offsets.append(np.concatenate([[0], np.cumsum(list_lengths(column))]))
        column = column.flatten()  # a null list has no items
        if len(column) > most:
            raise TooLarge(f"a request has at most {most} numbers", limit=most)
    numbers, nulls = doubles(pa, column)
    wrong = nulls | ~(np.abs(numbers) <= MAX_FLOAT32)
    return InputColumn(name, offsets, numbers, np.concatenate([[0], np.cumsum(wrong)]))


@dataclass(frozen=True)
class NamedInputs:
    """The columns of all inputs."""

    columns: Sequence[InputColumn]

    @classmethod
    def of_table(cls, pa: Any, arrays: Mapping[str, Any], most: int) -> NamedInputs:
        """The columns of a table that are inputs, by name.

        Raises
        ------
        TooLarge : more numbers than `most`, or more entries than `MAX_ENTRIES`
        """
        if sum(map(len, arrays.values())) > MAX_ENTRIES:
            raise TooLarge(f"a request has at most {MAX_ENTRIES} entries of inputs", limit=MAX_ENTRIES)
        columns = []
        left = most
        for name, array in arrays.items():
            columns.append(read_input(pa, name, array, left))
            left -= len(columns[-1].numbers)
        return cls(columns)

    def chunk(self, i: int, limits: Limits) -> dict[str, Numbers]:
        """[steps, ...] of each input of the chunk at this index.

        Raises
        ------
        Unprocessable : names the input
        TooLarge : more observations than the limit
        """
        return check_inputs({column.name: column.chunk(i) for column in self.columns}, limits)


def outputs(pa: Any, answer: BulkAnswer, applied: Bools, others: Sequence[str]) -> dict[str, Any] | None:
    """By output, an Arrow array with a list of steps for each session, of the output's type.

    Returns
    -------
    None where the sessions' networks differ, where no chunk was applied, or where an output has the name of
    another column
    """
    ports = answer.ports
    if not ports or not applied.any() or any(port.name in others for port in ports):
        return None
    rows = answer.predictions.reshape(-1, sum(port.size for port in ports))
    offsets, refused = list_offsets(pa, answer.steps), pa.array(~applied)
    columns: dict[str, Any] = {}
    stop = 0
    for port in ports:
        start, stop = stop, stop + port.size
        steps = pa.array(rows[:, start:stop].astype(port.type).ravel())
        for size in reversed(port.shape):
            steps = pa.FixedSizeListArray.from_arrays(steps, size)
        columns[port.name] = pa.ListArray.from_arrays(offsets, steps, mask=refused)
    return columns
