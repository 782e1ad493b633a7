"""What the layers above ask of a network, whichever it is: `Net`.

A network moves many sessions on at once and remembers nothing between calls. What it keeps of a session is
its state, the first words of the session's carry (`models/carry.py`). Scaling, learning, the clock and the
last observations belong to `Forecaster`.

NativeNet   a network of ours by compiled loops, without torch    (models/nets/native.py)
TorchNet    a network of ours by torch, on a GPU                    (models/nets/native_torch.py)
GraphNet    an ONNX graph by onnxruntime                            (models/nets/graph.py)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from models.arrays import Floats, Ints, Numbers


@dataclass(frozen=True, slots=True)
class Execution:
    """Where a network runs, and for how long.

    Attributes
    ----------
    device : "cpu" or "cuda"
    run_seconds : most that one call of a graph may take
    """

    device: str = "cpu"
    run_seconds: float = 10.0


class Net(Protocol):
    """A network over carries whose first words are its state.

    Attributes
    ----------
    input_size, output_size : numbers in an observation and in a prediction
    input_type, output_type : float32 or float64 (`models/nets/numbers.py`)
    state_size : words that it keeps of a session, seen as float32 whatever they hold
    floats : the parts of the state that are float32, and finite in a state that can be gone on from
    batch_invariant : whether no bit of what a session gets depends on the others of its batch
    """

    input_size: int
    output_size: int
    input_type: np.dtype[Any]
    output_type: np.dtype[Any]
    state_size: int
    floats: Sequence[slice]
    batch_invariant: bool

    @property
    def fresh(self) -> Floats:
        """[state_size], the state of a session that has observed nothing."""

    def advance(self, observations: Numbers, lengths: Ints, carries: Floats) -> tuple[Numbers, Floats]:
        """Move every session on by its chunk.

        Parameters
        ----------
        observations : [total, inputs], the chunks one after the other
        lengths : [batch], observations in each chunk, each at least 1, `total` together
        carries : [batch, at least state_size], in one piece; not written to

        Returns
        -------
        outputs : [total, outputs]
        carries : like `carries`, a new array; only the states have moved on
        """

    def step(self, observations: Numbers, carries: Floats) -> Numbers:
        """Move every session on by one observation, in place.

        Parameters
        ----------
        observations : [batch, inputs]
        carries : [batch, at least state_size], in one piece

        Returns
        -------
        [batch, outputs]
        """

    def features(self, carries: Floats) -> Floats:
        """What a readout learns from: [batch, features], of these carries, a view where it can be."""
