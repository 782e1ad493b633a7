"""Makes the answers of the chunks of one pass: predictions, and the outputs that their options ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.engine.batch import Batch
from app.engine.chunk_columns import ChunkColumns
from app.engine.extra_outputs import extra_outputs
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.session.rows import Answer, Rows
from models.arrays import Ints, Numbers
from models.forecaster import StepResult


@dataclass(slots=True)
class PassOutputs:
    """Outputs of a group of chunks, one chunk after the other.

    predictions : [total, outputs]
    ends : [batch], index behind each chunk's last prediction; None where every chunk has one prediction
    extra : outputs in addition to the predictions, by index of the chunk
    short_answer_size : numbers of a prediction that a session's header holds
    """

    predictions: Numbers
    ends: Ints | None
    extra: dict[int, Answer]
    short_answer_size: int

    @property
    def last(self) -> Numbers:
        """[batch, short_answer_size], the last prediction of each chunk."""
        last = self.predictions if self.ends is None else self.predictions[self.ends - 1]
        return last if self._fit_header else last[:, : self.short_answer_size].astype(np.float32)

    @property
    def _fit_header(self) -> bool:
        return bool(self.short_answer_size == self.predictions.shape[1])

    def long_answers(self, lengths: Ints) -> dict[int, Answer]:
        """By index, the long answers (`app.session.rows`).

        They are copies, because a view would keep the outputs of the whole pass in memory.
        """
        if self.ends is None and not self.extra and self._fit_header:
            return {}
        ends = lengths.cumsum()
        starts = ends - lengths
        long = lengths > 1 if self._fit_header else lengths > 0
        indexes = {*np.flatnonzero(long).tolist(), *self.extra}
        return {
            i: {"predictions": self.predictions[starts[i] : ends[i]].copy(), **self.extra.get(i, {})}
            for i in indexes
        }


def pass_outputs(group: ChunkColumns, result: StepResult) -> PassOutputs:
    """The outputs of a pass over this group."""
    several = len(result.predictions) > len(group.lengths)
    extra = _extra_outputs(group, result) if group.has_options or result.scores is not None else {}
    ends = group.lengths.cumsum() if several else None
    return PassOutputs(result.predictions, ends, extra, group.slab.forecaster.short_answer_size)


def answer(group: ChunkColumns, outputs: PassOutputs, after: Rows, batch: Batch) -> None:
    """Add the answers of a group to `batch.answers_if_committed`; `after` is its sessions after the pass."""
    if group.jobs:
        _answer_singles(group, outputs, after, batch)
    for job, span in group.spans():
        ends, chunks = outputs.ends, span
        if ends is not None:
            chunks = slice(ends[span.start] - group.lengths[span.start], ends[span.stop - 1])
        bulk_answer = BulkAnswer(
            after.headers["position"][span],
            after.headers["epoch"][span],
            group.lengths[span],
            outputs.predictions.shape[1],
            outputs.predictions[chunks].ravel(),
            model=group.slab.forecaster.artifact.name,
            ports=group.slab.output_ports,
        )
        for i, extra in outputs.extra.items():
            if span.start <= i < span.stop:
                bulk_answer.add_extra_outputs(i - span.start, extra)
        batch.answers_if_committed.append((job, bulk_answer))


def _answer_singles(group: ChunkColumns, outputs: PassOutputs, after: Rows, batch: Batch) -> None:
    model, ports, count = group.slab.forecaster.artifact.name, group.slab.output_ports, len(group.jobs)
    if outputs.ends is None:
        parts = list(outputs.predictions[:count, None])  # the fastest way to make views of single rows
    else:
        ends = outputs.ends[:count].tolist()
        parts = [outputs.predictions[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    positions, epochs = after.headers["position"], after.headers["epoch"]
    columns = zip(group.jobs, positions[:count].tolist(), epochs[:count].tolist(), parts, strict=True)
    answers = [
        (job, ChunkAnswer(job.session, model, position, epoch, False, {"predictions": part}, ports))
        for job, position, epoch, part in columns
    ]
    for i, extra in outputs.extra.items():
        if i < count:
            answers[i][1].answer.update(extra)
    batch.answers_if_committed += answers


def _extra_outputs(group: ChunkColumns, result: StepResult) -> dict[int, Answer]:
    forecaster = group.slab.forecaster
    options = {i: job.options for i, job in enumerate(group.jobs) if job.options is not None}
    indexes = set(options)
    if forecaster.learning.tracks_errors:
        indexes.update(np.flatnonzero(forecaster.level(result.carries)).tolist())
    ends = group.lengths.cumsum()
    outputs: dict[int, Answer] = {}
    for i in indexes:
        chunk = slice(ends[i] - group.lengths[i], ends[i])
        stepped = result.pick(chunk, slice(i, i + 1))
        extra = extra_outputs(options.get(i), group.observations[chunk], stepped, forecaster)
        if extra:
            outputs[i] = extra
    return outputs
