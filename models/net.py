"""What the layers above ask of a network, whichever it is: `Net`.

A network moves many sessions on at once and remembers nothing between calls. What it keeps of a session is
its state, the first numbers of the session's carry (`models/carry.py`). Scaling, learning, the clock and the
last observations belong to `Forecaster`.

NativeNet   `RecurrentNetwork` by compiled loops, or by `torch.nn.LSTM` on a GPU    (models/nets/native.py)
"""

from __future__ import annotations

from typing import Protocol

from models.arrays import Floats, Ints


class Net(Protocol):
    """A network over carries whose first columns are its state.

    Attributes
    ----------
    input_size, output_size : numbers in an observation and in a prediction
    state_size : numbers that it keeps of a session
    """

    input_size: int
    output_size: int
    state_size: int

    def advance(self, observations: Floats, lengths: Ints, carries: Floats) -> tuple[Floats, Floats]:
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

    def step(self, observations: Floats, carries: Floats) -> Floats:
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
