"""The array types of the whole project. The name says the dtype; each place of use says the shape."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
"""What networks and sessions compute with: observations, predictions, carries, weights."""

Numbers = npt.NDArray[np.floating[Any]]
"""Observations and predictions: float32, or float64 where a network takes or gives whole numbers."""

Doubles = npt.NDArray[np.float64]
"""Data outside the network: values as read from files, scalings, errors, and sums over many rows."""

Seconds = npt.NDArray[np.float64]
"""Times in seconds since 1970-01-01, UTC; NaN is an unknown time."""

Times = npt.NDArray[np.datetime64]
"""Times as files give them: datetime64[us] in UTC, NaT is an unknown time."""

Ints = npt.NDArray[np.int64]
"""Row numbers, positions, lengths and counts."""

Bools = npt.NDArray[np.bool_]
"""Masks: which rows or values something holds for."""

Int32s = npt.NDArray[np.int32]
"""Numbers of blocks and of their neighbours, where a million of them must be small."""

UInt32s = npt.NDArray[np.uint32]
"""Unsigned 32-bit numbers: float32 seen as bits, and chunk lengths as they are stored."""

Bytes = npt.NDArray[np.uint8]
"""Raw bytes: text, or other arrays seen as bytes."""

Digests = npt.NDArray[np.uint64]
"""64-bit digests of chunks."""

Epochs = npt.NDArray[np.uint64]
"""Epochs of sessions: the random tokens drawn when a session is created or imported."""

Seeds = npt.NDArray[np.uint64]
"""Seeds of texts: with its position, one decides each token that is drawn."""

Headers = npt.NDArray[np.void]
"""Structured records of sessions, without their carries."""

AnyArray = npt.NDArray[Any]
"""An array of any dtype: cells of a table, tensors whose dtype is checked where they are read."""
