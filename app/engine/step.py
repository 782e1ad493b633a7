"""The step of a wave: every chunk of one model in one batched pass, and every forecast in another.

Most chunks are short, and a wave of them is a handful of array operations over columns. A chunk that would
hold its neighbours up, or that wants a forecast behind it, goes the way of `app.long`.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.engine import sliced
from app.engine.batch import Chunks, joined
from app.engine.extra_outputs import findings
from app.engine.inputs import complete, move_clock
from app.engine.time_budget import LEAST_STEPS, SHARED_SECONDS, WAVE_SECONDS, Pace
from app.engine.wave import Late, Seconds, Wave, moved_on
from app.errors import CannotForecast, StepFailed, Unprocessable
from app.jobs.answers import Advanced, AdvancedMany
from app.jobs.jobs import Advance, AdvanceMany
from app.jobs.split import LONG_CHUNK
from app.session.rows import Answer, Epochs, Floats, Ints, Rows, scalar
from app.session.slab import Slab
from models.adaptation.learner import Judged
from models.compiled import FLOAT, column, compiled, dense
from models.forecaster import Forecaster, Passed, longest

log = logging.getLogger("carryover.engine")

Failures = dict[int, StepFailed]  # by column
Truths = npt.NDArray[np.bool_]


class Stepper:
    """Steps waves; remembers only how fast each model is.

    Parameters
    ----------
    recent_bytes : of remembered long answers a session
    """

    def __init__(self, recent_bytes: int) -> None:
        self.recent_bytes = recent_bytes
        self._paces: defaultdict[Slab, Pace] = defaultdict(Pace)
        self.shared = False  # whether several tenants call, and wait for each other's chunks

    def last_pass(self, slab: Slab) -> float:
        """Seconds that the newest pass of this model took."""
        return self._paces[slab].last if slab in self._paces else 0.0

    @property
    def observations(self) -> int:
        """That one wave may take of the slowest model."""
        return min([pace.observations for pace in self._paces.values()] or [Pace().observations])

    @property
    def nbytes(self) -> int:
        """Of observations that one wave may take, about."""
        return self.observations * min([4 * slab.forecaster.input_size for slab in self._paces] or [4])

    @property
    def _seconds(self) -> float:
        return SHARED_SECONDS if self.shared else WAVE_SECONDS

    def add(self, job: Advance, slab: Slab, row: int, wave: Wave) -> None:
        """Take a chunk into the wave.

        Raises
        ------
        Unprocessable, CannotForecast : it cannot be applied
        Late : the session has expired
        """
        forecaster = slab.forecaster
        if job.extras is not None and job.progress is None:
            _check_alive(slab, row, wave)
            complete(job, slab, row)
        observations = job.observations
        if observations.shape[1] != forecaster.input_size:
            _check_alive(slab, row, wave)
            raise wrong_width(forecaster, observations.shape[1])
        if job.progress is not None:
            (wave.long if job.progress.rolling is None else wave.rolling).append((slab, row, job))
        elif job.horizon and forecaster.missing:
            raise cannot_forecast(forecaster)
        elif job.horizon or len(observations) > (LEAST_STEPS if self.shared else LONG_CHUNK):
            sliced.begin(job, slab, row, wave)
        else:
            group = wave.chunks_of(slab)
            group.jobs.append(job)
            group.taken.append(row)
            if job.reset or job.delete:
                group.bounded = True
            if job.extras is not None:
                group.extra = True

    def add_many(self, job: AdvanceMany, slab: Slab, rows: Ints, wave: Wave) -> None:
        """Take many chunks into the wave, none of them long.

        Raises
        ------
        Unprocessable : none of them can be applied
        """
        width = job.observations.shape[1]
        if width != slab.forecaster.input_size:
            raise wrong_width(slab.forecaster, width)
        wave.chunks_of(slab).bulks.append((job, rows))

    def admit(self, group: Chunks, wave: Wave) -> list[Advance]:
        """Let the chunks that are in step through; settle the others. Returns those whose session expired."""
        group.read()
        before, digests = group.before, group.digests
        headers = before.headers
        go = np.empty(len(digests), np.bool_)
        expired: list[Advance] = []
        columns = headers["position"], headers["epoch"], headers["deadline"]
        if not _in_step(*columns, group.at, group.epochs, wave.now, go):
            late = headers["deadline"] < wave.now
            for i, job in group.keep(go, wave.divide).items():
                if late[i]:
                    expired.append(job)
                else:
                    wave.settle(group.slab, job, before, i, int(digests[i]))
        if group.bounded:
            group.restart()
        return expired

    def step(self, wave: Wave) -> None:
        """One pass over the chunks of each model, then one over its forecasts; stages what is whole."""
        for slab in {*wave.chunks, *(slab for slab, _, _ in wave.long)}:
            self._advance(slab, wave.chunks_of(slab), [item for item in wave.long if item[0] is slab], wave)
        for slab in {slab for slab, _, _ in wave.rolling}:
            rolling = [item for item in wave.rolling if item[0] is slab]
            steps = self._paces[slab].steps(len(rolling), self._seconds)
            sliced.roll(slab, rolling, steps, wave, self.recent_bytes)

    def _advance(
        self, slab: Slab, group: Chunks, slow: Sequence[tuple[Slab, int, Advance]], wave: Wave
    ) -> None:
        plain = len(group)
        if not slow:
            if plain:
                observations, carries = group.observations, group.before.carries
                passed, errors = self._one_pass(slab, observations, group.lengths, carries, group.gaps)
                self._stage(group, passed, errors, wave)
            return
        size = self._paces[slab].steps(plain + len(slow), self._seconds)
        slices = [job.observations[job.progress.done :][:size] for _, _, job in slow if job.progress]
        lengths = np.array([len(part) for part in slices], np.int64)
        carries = np.stack([job.progress.carry for _, _, job in slow if job.progress])
        if plain:
            slices.insert(0, group.observations)
            lengths = np.concatenate([group.lengths, lengths])
            carries = np.concatenate([group.before.carries, carries])
        gaps = group.gaps or any(job.extras is not None and job.extras.gaps for _, _, job in slow)
        passed, errors = self._one_pass(slab, joined(slices), lengths, carries, gaps)
        ends = np.cumsum(lengths)
        if plain:
            mine = {i: error for i, error in errors.items() if i < plain}
            self._stage(group, passed.part(slice(0, ends[plain - 1]), slice(0, plain)), mine, wave)
        for i, (_, row, job) in enumerate(slow, plain):
            if i in errors:
                wave.refuse(job, errors[i])
            else:
                part = passed.part(slice(ends[i] - lengths[i], ends[i]), slice(i, i + 1))
                sliced.advanced(slab, row, job, part, wave, self.recent_bytes)

    def _one_pass(
        self, slab: Slab, observations: Floats, lengths: Ints, carries: Floats, gaps: bool
    ) -> tuple[Passed, Failures]:
        """The batched step, and which of its sessions failed. A pass that raises is tried one by one."""
        forecaster = slab.forecaster
        began = time.perf_counter()
        errors: Failures = {}
        try:
            passed = _passed(forecaster, observations, lengths, carries, gaps)
        except Exception:
            log.exception("a step of %d sessions raised; each is tried alone", len(lengths))
            passed, errors = _one_by_one(forecaster, observations, lengths, carries, gaps)
        seconds = time.perf_counter() - began
        self._paces[slab].took(seconds, longest(lengths, observations), len(lengths), len(observations))
        if not (_all_finite(passed.carries) and _all_finite(passed.predictions)):
            errors |= _not_finite(passed.predictions, lengths, passed.carries, errors)
        return passed, errors

    def _stage(self, group: Chunks, passed: Passed, errors: Failures, wave: Wave) -> None:
        if errors:
            fine = np.ones(len(group), bool)
            fine[list(errors)] = False
            passed = passed.part(np.repeat(fine, group.lengths), fine)
            for i, job in group.keep(fine, wave.divide).items():
                wave.refuse(job, errors[i])
            if not len(group):
                return
        lengths, predictions = group.lengths, passed.predictions
        several = len(predictions) > len(lengths)
        ends = lengths.cumsum() if several else None
        told: dict[int, Answer] = {}
        if group.slab.forecaster.artifact.time_features:
            _move_clocks(group, passed.carries)
        if group.extra or passed.judged is not None:
            told = _findings(group, passed)
            wave.judge(group.slab.forecaster, passed.judged)
        after = moved_on(
            group.before,
            passed.carries,
            lengths,
            group.digests,
            predictions if ends is None else predictions[ends - 1],
            _long_answers(predictions, lengths, told) if several or told else {},
            wave.now,
            self.recent_bytes,
        )
        wave.stage(group.slab, group.sessions(), group.rows, after)
        if group.bounded:
            for i, job in enumerate(group.jobs):
                if job.delete:
                    wave.end(group.slab, job.session, after, i)
        _answer(group, predictions, ends, after, told, wave)


@compiled(
    column("int64"), column("uint64"), column("float64"), column("int64"), column("uint64"), FLOAT,
    dense("bool"),
)  # fmt: skip
def _in_step(
    position: Ints, epoch: Epochs, deadline: Seconds, at: Ints, epochs: Epochs, now: float, go: Truths
) -> bool:
    """Which chunks are where their sessions are, in `go`; whether all of them are."""
    agreed = True
    for i in range(len(go)):
        here = (at[i] == -1 or at[i] == position[i]) and (epochs[i] == 0 or epochs[i] == epoch[i])
        go[i] = here and deadline[i] >= now
        agreed &= go[i]
    return agreed


def _check_alive(slab: Slab, row: int, wave: Wave) -> None:
    """Nothing is said of a chunk by a session that has expired: it may suit the one that takes its place."""
    if scalar(slab.headers, "deadline", row) < wave.now:
        raise Late


def wrong_width(forecaster: Forecaster, width: int) -> Unprocessable:
    """The refusal of observations of another model's width."""
    return Unprocessable(
        f"an observation of model {forecaster.artifact.name!r} has {forecaster.input_size} numbers "
        f"({', '.join(column.name for column in forecaster.artifact.inputs)}), row 0 has {width}",
        row=0,
    )


def cannot_forecast(forecaster: Forecaster) -> CannotForecast:
    """The refusal of a forecast whose inputs nobody predicts."""
    missing = ", ".join(forecaster.missing)
    return CannotForecast(
        f"the model does not predict its input {missing}, which a forecast would have to feed back",
        missing=list(forecaster.missing),
    )


def _answer(
    group: Chunks,
    predictions: Floats,
    ends: Ints | None,
    after: Rows,
    findings: dict[int, Answer],
    wave: Wave,
) -> None:
    """What the chunks of a group are answered, once they are committed. No `ends`: one prediction each."""
    model, singles = group.slab.forecaster.artifact.name, len(group.jobs)
    positions, epochs = after.headers["position"], after.headers["epoch"]
    if singles:
        if ends is None:
            parts = list(predictions[:singles, None])  # iterating makes the views of one row each soonest
        else:
            own = ends[:singles].tolist()
            parts = [predictions[start:end] for start, end in zip([0, *own], own, strict=False)]
        told = zip(group.jobs, positions[:singles].tolist(), epochs[:singles].tolist(), parts, strict=True)
        wave.moved += [
            (job, Advanced(job.session, model, position, epoch, False, {"predictions": part}))
            for job, position, epoch, part in told
        ]
        for i, more in findings.items():
            if i < singles:
                wave.moved[i - singles][1].answer.update(more)  # type: ignore[union-attr]
    for job, span in group.spans():
        steps, outputs, run = group.lengths[span], predictions.shape[1], span
        if ends is not None:
            run = slice(ends[span.start] - group.lengths[span.start], ends[span.stop - 1])
        numbers = predictions[run].ravel()
        answer = AdvancedMany(positions[span], epochs[span], steps, outputs, numbers)
        for i, more in findings.items():
            if span.start <= i < span.stop:
                answer.found(i - span.start, more)
        wave.moved.append((job, answer))


def _move_clocks(group: Chunks, carries: Floats) -> None:
    """Every session that has told a time is now at that of its chunk's last row."""
    forecaster = group.slab.forecaster
    told = [job.clock for job in group.jobs] + [None] * (len(group) - len(group.jobs))
    for clock, length, carry in zip(told, group.lengths.tolist(), carries, strict=True):
        move_clock(forecaster, carry, clock, length)


def _findings(group: Chunks, passed: Passed) -> dict[int, Answer]:
    """By column, what is told beside the predictions, where anything is."""
    forecaster = group.slab.forecaster
    told: dict[int, Answer] = {}
    extras = {i: job.extras for i, job in enumerate(group.jobs) if job.extras is not None}
    asking = set(extras)
    if forecaster.learning.judges:
        asking.update(np.flatnonzero(forecaster.level(passed.carries)).tolist())
    ends = group.lengths.cumsum()
    for i in asking:
        run = slice(ends[i] - group.lengths[i], ends[i])
        judged = None if passed.judged is None else passed.judged.part(run)
        more = findings(
            extras.get(i),
            passed.carries[i],
            group.observations[run],
            passed.predictions[run],
            judged,
            forecaster,
        )
        if more:
            told[i] = more
    return told


def _long_answers(predictions: Floats, lengths: Ints, told: dict[int, Answer]) -> dict[int, Answer]:
    """By column, the answers of more than one prediction: copies, or they would keep the wave's alive."""
    ends = lengths.cumsum()
    sliced = np.flatnonzero(lengths > 1).tolist()
    starts = ends - lengths
    return {
        i: {"predictions": predictions[starts[i] : ends[i]].copy(), **told.get(i, {})}
        for i in ({*sliced, *told} if told else sliced)
    }


def _passed(
    forecaster: Forecaster, observations: Floats, lengths: Ints, carries: Floats, gaps: bool
) -> Passed:
    """One pass over all of them, step by step only where it has to be."""
    if gaps or forecaster.learner is not None:
        return forecaster.observe(observations, lengths, carries)
    return Passed(*forecaster.advance(observations, lengths, carries), None)


def _all_finite(numbers: Floats) -> bool:
    """False if one of them is not, or for numbers near the largest. One product of BLAS, not two passes."""
    flat = numbers.ravel()
    return math.isfinite(np.vdot(flat, flat))


def _not_finite(predictions: Floats, lengths: Ints, moved: Floats, known: Failures) -> Failures:
    starts = np.cumsum(lengths) - lengths
    fine = np.isfinite(moved).all(axis=1)
    fine &= np.logical_and.reduceat(np.isfinite(predictions).all(axis=1), starts)
    return {
        i: StepFailed("the network left the finite numbers; the session did not move")
        for i in np.flatnonzero(~fine).tolist()
        if i not in known
    }


def _one_by_one(
    forecaster: Forecaster, observations: Floats, lengths: Ints, carries: Floats, gaps: bool
) -> tuple[Passed, Failures]:
    predictions = np.zeros((len(observations), forecaster.output_size), np.float32)
    learner = forecaster.learner
    judged = None if learner is None else Judged.empty(*predictions.shape, len(learner.levels))
    moved = carries.copy()
    errors: Failures = {}
    start = 0
    for i, length in enumerate(lengths.tolist()):
        run = slice(start, start + length)
        start += length
        try:
            one = _passed(forecaster, observations[run], lengths[i : i + 1], carries[i : i + 1], gaps)
        except Exception as error:  # noqa: BLE001  (whatever it was, it is this session's alone)
            errors[i] = StepFailed(f"the network failed: {error}; the session did not move")
            continue
        predictions[run], moved[i] = one.predictions, one.carries[0]
        if judged is not None and one.judged is not None:
            judged.put(run, one.judged)
    return Passed(predictions, moved, judged), errors
