"""Many sessions, one observation of each at a time.

Each observation is compared with its prediction, the session learns from the error, the network steps, and
its output is corrected into the next prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.adaptation.learner import Learner, Scores
from models.arrays import Floats, Ints
from models.carry import CarryLayout
from models.net import Net
from models.nets.chunks import time_major


class Stepper:
    """A network and the learner of its sessions, stepped together.

    Parameters
    ----------
    net, layout
        Of one artifact.
    learner
        None when the sessions learn nothing.
    feedback
        For each input the output that predicts it, or None.
    """

    def __init__(
        self,
        net: Net,
        layout: CarryLayout,
        learner: Learner | None,
        feedback: Sequence[int | None],
    ) -> None:
        self.net, self.layout, self.learner = net, layout, learner
        self._inputs = [i for i, output in enumerate(feedback) if output is not None]
        self._outputs = [output for output in feedback if output is not None]

    def advance(
        self, scaled: Floats, lengths: Ints, order: Ints, rows: Floats
    ) -> tuple[Floats, Scores | None]:
        """Move sessions on by their chunks.

        Parameters
        ----------
        scaled : [total, inputs], the chunks one after the other; what is NaN is filled in, in place
        lengths : [batch], observations in each chunk
        order : [batch], which sorts the chunks, the longest first
        rows : [batch, carry size], the carries in that order; moved on in place

        Returns
        -------
        outputs : [total, outputs], scaled
        scores : laid out as the observations, scaled; None when the sessions learn nothing
        """
        total, learner = len(scaled), self.learner
        latest, learned = self.layout.predictions(rows), rows[:, self.layout.learned]
        outputs = np.empty((total, self.net.output_size), self.net.output_type)
        scores = None if learner is None else Scores.empty(total, outputs.shape[1], len(learner.levels))
        for at in time_major(lengths, order, int(lengths.max())):
            active = len(at)  # sessions whose chunks are at least this long: the first rows
            inputs = scaled[at]
            if learner is not None and scores is not None:
                observed = inputs[:, learner.target_columns]
                learner.learn(learned[:active], latest[:active], observed, scores, at)
            if np.isnan(inputs).any():
                self._fill_gaps(inputs, latest[:active])
                scaled[at] = inputs
            latest[:active] = outputs[at] = self.predict(rows[:active], inputs)
            if learner is not None and scores is not None:
                scores.widths[at] = learner.widths(learned[:active])
        return outputs, scores

    def predict(self, carries: Floats, inputs: Floats) -> Floats:
        """Step the network once and correct its outputs.

        Parameters
        ----------
        carries : [batch, carry size]; moved on in place, but for the prediction
        inputs : [batch, inputs], scaled, none missing

        Returns
        -------
        [batch, outputs], scaled
        """
        outputs = self.net.step(inputs, carries)
        if self.learner is None:
            return outputs
        features = self.net.features(carries)
        return self.learner.predict(carries[:, self.layout.learned], features, inputs, outputs)

    def feed_back(self, inputs: Floats, latest: Floats) -> None:
        """Put predictions, [batch, outputs], in the place of the inputs that they predict; all scaled."""
        inputs[:, self._inputs] = latest[:, self._outputs]

    def _fill_gaps(self, inputs: Floats, latest: Floats) -> None:
        given = inputs[:, self._inputs]
        inputs[:, self._inputs] = np.where(np.isnan(given), latest[:, self._outputs], given)
