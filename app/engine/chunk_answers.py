"""Makes the answers of the chunks of one pass: predictions, and the intervals that some sessions want."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.batch import Batch
from app.engine.chunk_columns import ChunkColumns
from app.engine.extra_outputs import extra_outputs
from app.engine.times import times_of_last, with_times
from app.jobs.answers import BulkAnswer
from app.session.rows import Answer, Rows
from models.arrays import Floats, Ints, Numbers
from models.forecaster import Forecaster, SampleNet, StepResult


@dataclass(slots=True)
class PassOutputs:
    """Outputs of a group of chunks, one chunk after the other.

    predictions : [total, outputs]
    steps : [batch], how many predictions each chunk has
    ends : [batch], index behind each chunk's last prediction; None where every chunk has one prediction
    extra : outputs in addition to the predictions, by index of the chunk
    short_answer_size : numbers of a prediction that a session's header holds
    """

    predictions: Numbers
    steps: Ints
    ends: Ints | None
    extra: dict[int, Answer]
    short_answer_size: int

    @property
    def last(self) -> Numbers:
        """[batch, short_answer_size], the last prediction of each chunk."""
        if not self.short_answer_size:
            return np.empty((len(self.steps), 0), np.float32)
        last = self.predictions if self.ends is None else self.predictions[self.ends - 1]
        return last if self._fit_header else last[:, : self.short_answer_size].astype(np.float32)

    @property
    def _fit_header(self) -> bool:
        return bool(self.short_answer_size == self.predictions.shape[1])

    def long_answers(self) -> dict[int, Answer]:
        """By index, the long answers (`app.session.rows`).

        They are copies, because a view would keep the outputs of the whole pass in memory.
        """
        if self.ends is None and not self.extra and self._fit_header:
            return {}
        ends = self.steps.cumsum()
        starts = ends - self.steps
        long = self.steps > 1 if self._fit_header else self.steps > 0
        indexes = {*np.flatnonzero(long).tolist(), *self.extra}
        return {
            i: {"predictions": self.predictions[starts[i] : ends[i]].copy(), **self.extra.get(i, {})}
            for i in indexes
        }


def pass_outputs(group: ChunkColumns, result: StepResult) -> PassOutputs:
    """The outputs of a pass over this group."""
    if group.slab.forecaster.samples is not None:
        return _outputs_of_frames(group, result, group.slab.forecaster.samples)
    several = len(result.predictions) > len(group.lengths)
    extra = {} if result.scores is None else _extra_outputs(group, result)
    ends = group.lengths.cumsum() if several else None
    size = group.slab.forecaster.short_answer_size
    return PassOutputs(result.predictions, group.lengths, ends, extra, size)


def _outputs_of_frames(group: ChunkColumns, result: StepResult, samples: SampleNet) -> PassOutputs:
    """The outputs of a group whose observations are samples: those of the frames that are complete."""
    positions, carries = group.before.headers["position"].tolist(), group.before.carries
    ends = group.lengths.cumsum().tolist()
    extra: dict[int, Answer] = {}
    parts = []
    for i, (end, length) in enumerate(zip(ends, group.lengths.tolist(), strict=True)):
        answer = samples.answer(carries[i], positions[i], result.predictions[end - length : end])
        parts.append(answer.pop("predictions"))
        extra[i] = answer
    steps = np.array([len(part) for part in parts])
    return PassOutputs(np.concatenate(parts), steps, steps.cumsum(), extra, 0)


def answer(group: ChunkColumns, outputs: PassOutputs, after: Rows, batch: Batch) -> None:
    """Add the answers of a group to `batch.answers_if_committed`; `after` is its sessions after the pass."""
    for job, span in group.spans():
        ends, chunks = outputs.ends, span
        if ends is not None:
            chunks = slice(ends[span.start] - outputs.steps[span.start], ends[span.stop - 1])
        bulk_answer = BulkAnswer(
            after.headers["position"][span],
            after.headers["epoch"][span],
            outputs.steps[span],
            outputs.predictions.shape[1],
            outputs.predictions[chunks].ravel(),
            model=group.slab.forecaster.artifact.name,
            ports=group.slab.output_ports,
        )
        for i, extra in outputs.extra.items():
            if span.start <= i < span.stop:
                bulk_answer.add_extra_outputs(i - span.start, extra)
        if group.slab.forecaster.artifact.time_features:
            _add_times(bulk_answer, group.slab.forecaster, after.carries[span])
        batch.answers_if_committed.append((job, bulk_answer))


def _add_times(answer: BulkAnswer, forecaster: Forecaster, carries: Floats) -> None:
    """Add the times that predictions are for, of the sessions that have timestamps.

    Parameters
    ----------
    carries : [batch, carry_size], after the chunks
    """
    for i, (carry, steps) in enumerate(zip(carries, answer.steps.tolist(), strict=True)):
        answer.add_extra_outputs(i, with_times({}, forecaster, times_of_last(forecaster, carry, steps)))


def _extra_outputs(group: ChunkColumns, result: StepResult) -> dict[int, Answer]:
    """By index, the outputs of the sessions that want intervals with every chunk."""
    forecaster = group.slab.forecaster
    if not forecaster.learning.tracks_errors:
        return {}
    ends = group.lengths.cumsum()
    outputs: dict[int, Answer] = {}
    for i in np.flatnonzero(forecaster.level(result.carries)).tolist():
        chunk = slice(ends[i] - group.lengths[i], ends[i])
        stepped = result.pick(chunk, slice(i, i + 1))
        outputs[i] = extra_outputs(None, group.observations[chunk], stepped, forecaster)
    return outputs
