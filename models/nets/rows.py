"""How the tensors that a graph carries lie in a session's row of 4-byte words.

float32, int32    a word each
float16           as float32, which holds it exactly: so one check finds what is not finite
int64             two words each
uint8, bool       four to a word, the last word filled up with zeros
"""

from __future__ import annotations

from typing import Any

import numpy as np

from models.arrays import AnyArray, Floats

WORD = np.dtype(np.float32)
STORED: dict[str, np.dtype[Any]] = {"float16": WORD, "bool": np.dtype(np.uint8)}  # where it is not the same


class Field:
    """A tensor in the rows of a batch.

    Parameters
    ----------
    dtype : of the tensor
    shape : of one session's
    start : its first word

    Attributes
    ----------
    words : slice of a row
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...], start: int) -> None:
        self.dtype, self.shape = dtype, shape
        self._stored = STORED.get(dtype.name, dtype)
        self._size = int(np.prod(shape, dtype=np.int64))
        self.words = slice(start, start + -(-self._size * self._stored.itemsize // WORD.itemsize))
        self._is_plain = dtype == WORD

    @property
    def holds_floats(self) -> bool:
        """Whether it has words, and they are float32."""
        return self._size > 0 and self._stored == WORD

    def read(self, rows: Floats) -> AnyArray:
        """[batch, *shape] of rows [batch, words]; a view where it can be."""
        stored = np.ascontiguousarray(rows[:, self.words]).view(self._stored)
        return stored[:, : self._size].reshape(len(rows), *self.shape).astype(self.dtype, copy=False)

    def write(self, rows: Floats, values: AnyArray) -> None:
        """Write values, [batch, *shape], into rows [batch, words], in place."""
        if self._is_plain:
            rows[:, self.words] = values.reshape(len(rows), self._size)
            return
        width = self.words.stop - self.words.start
        stored = np.zeros((len(rows), width * WORD.itemsize // self._stored.itemsize), self._stored)
        stored[:, : self._size] = values.reshape(len(rows), self._size)
        rows[:, self.words] = stored.view(WORD)
