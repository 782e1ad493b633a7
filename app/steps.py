"""The step of a wave: every chunk of one model in one batched pass, and every forecast in another.

Most chunks are short, and a wave of them is a handful of array operations. A chunk that would hold its
neighbours up, or that wants a forecast behind it, moves on by a slice a wave, its half-way carry with
the job, and is staged when it is whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app import admission
from app.answers import Advanced
from app.digest import digests
from app.errors import CannotForecast, CarryoverError, OutOfStep, StepFailed, Unprocessable
from app.jobs import Advance, Forecast, Progress
from app.rows import Answer, Floats, Rows, scalar
from app.slab import Slab
from app.wave import Chunks, Late, Wave, moved_on
from models.forecaster import Forecaster

log = logging.getLogger("carryover.engine")

WAVE_SECONDS = 0.005  # what a pass may take before long chunks are sliced; the event loop waits so long
FIRST_GUESS = 2e-6  # seconds for one observation of one session, until a pass was timed


class Stepper:
    """Steps waves; remembers only how fast each model is.

    Parameters
    ----------
    recent_bytes : of remembered long answers a session
    """

    def __init__(self, recent_bytes: int) -> None:
        self.recent_bytes = recent_bytes
        self._seconds: dict[str, float] = {}  # by fingerprint, for one observation of one session

    def add(self, job: Advance, slab: Slab, row: int, wave: Wave, jobs: int) -> None:
        """Take a chunk into the wave.

        Raises
        ------
        Unprocessable, CannotForecast, OutOfStep : it cannot be applied
        Late : the session has expired
        """
        if job.progress is not None:
            (wave.long if job.progress.rolling is None else wave.rolling).append((slab, row, job))
            return
        forecaster = slab.forecaster
        if job.observations.shape[1] != forecaster.input_size:
            raise Unprocessable(
                f"an observation of model {forecaster.artifact.name!r} has {forecaster.input_size} numbers "
                f"({', '.join(column.name for column in forecaster.artifact.inputs)}), row 0 has "
                f"{job.observations.shape[1]}",
                row=0,
            )
        if job.horizon and forecaster.missing:
            raise cannot_forecast(forecaster)
        if job.horizon or len(job.observations) > self._slice(slab, jobs):
            self._begin(job, slab, row, wave)
        else:
            wave.add_chunk(slab, row, job)

    def admit(self, group: Chunks, wave: Wave) -> list[Advance]:
        """Let the chunks that are in step through; settle the others. Returns those whose session expired."""
        jobs = group.jobs
        group.read()
        headers = group.before.headers
        claimed = [-1 if job.at is None else job.at for job in jobs]
        go = (headers["position"] == claimed) | (np.array(claimed) == -1)
        late = headers["deadline"] < wave.now
        for i, job in enumerate(jobs):
            if job.epoch is not None and job.epoch != headers["epoch"][i]:
                go[i] = False
        if go.all() and not late.any():
            return []
        for i in np.flatnonzero(~go & ~late).tolist():
            self._settle(group.slab, jobs[i], group.before, i, int(group.digests[i]), wave)
        group.keep(go & ~late)
        return [jobs[i] for i in np.flatnonzero(late).tolist()]

    def step(self, wave: Wave) -> None:
        """One pass over the chunks of each model, then one over its forecasts; stages what is whole."""
        slabs = {id(slab): slab for slab, _, _ in wave.long + wave.rolling}
        slabs |= {key: group.slab for key, group in wave.chunks.items()}
        for key, slab in slabs.items():
            self._advance(slab, wave.chunks.get(key), [item for item in wave.long if item[0] is slab], wave)
            self._roll(slab, [item for item in wave.rolling if item[0] is slab], wave)

    def _begin(self, job: Advance, slab: Slab, row: int, wave: Wave) -> None:
        """The first wave of a long chunk: the only one that asks whether it is in step."""
        before = slab.read(np.array([row]))
        if before.headers["deadline"][0] < wave.now:
            raise Late
        digest = int(digests(job.observations, np.array([len(job.observations)]), job.horizon)[0])
        position = scalar(before.headers, "position")
        mine = job.epoch is None or job.epoch == scalar(before.headers, "epoch")
        if not mine or job.at not in (None, position):
            self._settle(slab, job, before, 0, digest, wave)
            return
        job.progress = Progress(before.carries[0], digest)
        wave.long.append((slab, row, job))

    def _settle(self, slab: Slab, job: Advance, rows: Rows, i: int, digest: int, wave: Wave) -> None:
        """Answer a chunk that is not at the session's position: again, or no."""
        epoch = scalar(rows.headers, "epoch", i)
        try:
            admission.check_epoch(job.session, epoch, job.epoch)
            if job.at is None:
                raise OutOfStep(f"session {job.session!r} moved meanwhile")
            position, answer = admission.answered_before(
                rows, i, job.session, job.at, len(job.observations), digest
            )
        except CarryoverError as error:
            wave.refuse(job, error)
            return
        wave.settled.append((job, _advanced(slab, job, position, epoch, answer, replayed=True)))

    def _advance(
        self, slab: Slab, group: Chunks | None, long: Sequence[tuple[Slab, int, Advance]], wave: Wave
    ) -> None:
        plain = len(group.jobs) if group is not None else 0
        if not plain and not long:
            return
        size = self._slice(slab, plain + len(long))
        slices = [job.observations[job.progress.done :][:size] for _, _, job in long if job.progress]
        lengths = np.array([len(part) for part in slices], np.int64)
        observations, carries = slices, [job.progress.carry[None] for _, _, job in long if job.progress]
        if group is not None and plain:
            lengths = np.concatenate([group.lengths, lengths])
            observations = [group.observations, *slices]
            carries = [group.before.carries, *carries]
        pass_ = self._one_pass(slab, _joined(observations), lengths, _joined(carries))
        predictions, moved, errors = pass_
        starts = np.cumsum(lengths) - lengths
        if group is not None and plain:
            self._stage_plain(group, predictions, starts[:plain], moved[:plain], errors, wave)
        for i, (_, row, job) in enumerate(long, plain):
            if i in errors:
                wave.refuse(job, errors[i])
            else:
                part = predictions[starts[i] : starts[i] + lengths[i]]
                self._progressed(slab, row, job, part, moved[i], wave)

    def _one_pass(
        self, slab: Slab, observations: Floats, lengths: npt.NDArray[np.int64], carries: Floats
    ) -> tuple[Floats, Floats, dict[int, StepFailed]]:
        """The batched step, and which of its sessions failed. A pass that raises is tried one by one."""
        forecaster = slab.forecaster
        began = time.perf_counter()
        errors: dict[int, StepFailed] = {}
        try:
            predictions, moved = forecaster.advance(observations, lengths, carries)
        except Exception:
            log.exception("a step of %d sessions raised; each is tried alone", len(lengths))
            predictions, moved, errors = _one_by_one(forecaster, observations, lengths, carries)
        self._time(forecaster, time.perf_counter() - began, len(observations))
        # One sum is not finite exactly where a number in it is not, short of an overflow, which is checked.
        if not (np.isfinite(moved.sum()) and np.isfinite(predictions.sum())):
            ends = np.cumsum(lengths)
            for i in range(len(lengths)):
                rows = predictions[ends[i] - lengths[i] : ends[i]]
                if i not in errors and not (np.isfinite(moved[i]).all() and np.isfinite(rows).all()):
                    errors[i] = StepFailed("the network left the finite numbers; the session did not move")
        return predictions, moved, errors

    def _stage_plain(
        self,
        group: Chunks,
        predictions: Floats,
        starts: npt.NDArray[np.int64],
        moved: Floats,
        errors: dict[int, StepFailed],
        wave: Wave,
    ) -> None:
        for i, error in errors.items():
            if i < len(group.jobs):
                wave.refuse(group.jobs[i], error)
        ends = starts + group.lengths
        parts = [predictions[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        last = predictions[ends - 1]
        if errors:
            fine = np.array([i not in errors for i in range(len(group.jobs))])
            parts = [part for part, keep in zip(parts, fine, strict=True) if keep]
            last, moved = last[fine], moved[fine]
            group.keep(fine)
        if not group.jobs:
            return
        long: dict[int, Answer] = {}
        if int(group.lengths.max()) > 1:
            # Copies: a view would keep the whole wave's predictions alive.
            long = {i: {"predictions": part.copy()} for i, part in enumerate(parts) if len(part) > 1}
        after = moved_on(
            group.before, moved, group.lengths, group.digests, last, long, wave.now, self.recent_bytes
        )
        wave.stage(group.slab, [job.session for job in group.jobs], np.array(group.rows), after)
        positions, epochs = after.headers["position"].tolist(), after.headers["epoch"].tolist()
        for job, position, epoch, part in zip(group.jobs, positions, epochs, parts, strict=True):
            wave.moved.append((job, _advanced(group.slab, job, position, epoch, {"predictions": part})))

    def _progressed(
        self, slab: Slab, row: int, job: Advance, predictions: Floats, carry: Floats, wave: Wave
    ) -> None:
        progress = job.progress
        if progress is None:
            return
        progress.predictions.append(predictions)
        progress.done += len(predictions)
        progress.carry = carry.copy()
        if progress.done < len(job.observations):
            wave.under_way.append(job)
        elif job.horizon:
            progress.rolling = progress.carry
            wave.rolling.append((slab, row, job))
        else:
            self._stage_long(slab, row, job, wave)

    def _roll(self, slab: Slab, rolling: Sequence[tuple[Slab, int, Advance | Forecast]], wave: Wave) -> None:
        """Move every forecast on by the same slice."""
        if not rolling:
            return
        carries = np.stack([job.progress.rolling for _, _, job in rolling if job.progress])  # type: ignore[misc]
        left = [_horizon(job) - job.progress.rolled for _, _, job in rolling if job.progress]
        steps = min(*left, self._slice(slab, len(rolling)))
        try:
            forecast, moved = slab.forecaster.roll_out(carries, steps)
        except Exception as error:
            log.exception("a forecast of %d sessions raised", len(rolling))
            for _, _, job in rolling:
                wave.refuse(job, StepFailed(f"the forecast failed: {error}"))
            return
        for i, (_, row, job) in enumerate(rolling):
            if not np.isfinite(forecast[i]).all():
                wave.refuse(job, StepFailed("the forecast left the finite numbers; the session did not move"))
            else:
                self._rolled(slab, row, job, forecast[i], moved[i].copy(), wave)

    def _rolled(
        self, slab: Slab, row: int, job: Advance | Forecast, forecast: Floats, carry: Floats, wave: Wave
    ) -> None:
        progress = job.progress
        if progress is None:
            return
        progress.forecast.append(forecast)
        progress.rolled += len(forecast)
        progress.rolling = carry
        if progress.rolled < _horizon(job):
            wave.under_way.append(job)
        elif isinstance(job, Advance):
            self._stage_long(slab, row, job, wave)
        else:
            header = slab.headers[row : row + 1]
            answer = {"forecast": np.concatenate(progress.forecast)}
            position, epoch = scalar(header, "position"), scalar(header, "epoch")
            wave.settled.append((job, _advanced(slab, job, position, epoch, answer)))

    def _stage_long(self, slab: Slab, row: int, job: Advance, wave: Wave) -> None:
        progress = job.progress
        if progress is None:
            return
        answer = {"predictions": np.concatenate(progress.predictions)}
        if job.horizon:
            answer["forecast"] = np.concatenate(progress.forecast)
        rows = np.array([row])
        after = moved_on(
            slab.read(rows),
            progress.carry[None],
            np.array([len(job.observations)]),
            np.array([progress.digest], np.uint64),
            answer["predictions"][-1:],
            {0: answer},
            wave.now,
            self.recent_bytes,
        )
        wave.stage(slab, (job.session,), rows, after)
        position, epoch = scalar(after.headers, "position"), scalar(after.headers, "epoch")
        wave.moved.append((job, _advanced(slab, job, position, epoch, answer)))

    def _slice(self, slab: Slab, jobs: int) -> int:
        """Observations that each of so many chunks may move on by in one pass."""
        seconds = self._seconds.get(slab.forecaster.artifact.fingerprint, FIRST_GUESS)
        return max(16, int(WAVE_SECONDS / seconds / max(jobs, 1)))

    def _time(self, forecaster: Forecaster, seconds: float, observations: int) -> None:
        """A moving average, of passes that were large enough to tell."""
        if observations < 64:
            return
        fingerprint = forecaster.artifact.fingerprint
        now, before = seconds / observations, self._seconds.get(fingerprint)
        self._seconds[fingerprint] = now if before is None else 0.9 * before + 0.1 * now


def cannot_forecast(forecaster: Forecaster) -> CannotForecast:
    """The refusal of a forecast whose inputs nobody predicts."""
    missing = ", ".join(forecaster.missing)
    return CannotForecast(
        f"the model does not predict its input {missing}, which a forecast would have to feed back",
        missing=list(forecaster.missing),
    )


def _one_by_one(
    forecaster: Forecaster,
    observations: Floats,
    lengths: npt.NDArray[np.int64],
    carries: Floats,
) -> tuple[Floats, Floats, dict[int, StepFailed]]:
    predictions = np.zeros((len(observations), forecaster.output_size), np.float32)
    moved = carries.copy()
    errors: dict[int, StepFailed] = {}
    start = 0
    for i, length in enumerate(lengths.tolist()):
        stop = start + length
        try:
            predictions[start:stop], moved[i : i + 1] = forecaster.advance(
                observations[start:stop], lengths[i : i + 1], carries[i : i + 1]
            )
        except Exception as error:  # noqa: BLE001  (whatever it was, it is this session's alone)
            errors[i] = StepFailed(f"the network failed: {error}; the session did not move")
        start = stop
    return predictions, moved, errors


def _advanced(
    slab: Slab, job: Advance | Forecast, position: int, epoch: int, answer: Answer, replayed: bool = False
) -> Advanced:
    return Advanced(job.session, slab.forecaster.artifact.name, position, epoch, replayed, answer)


def _horizon(job: Advance | Forecast) -> int:
    return job.horizon if isinstance(job, Advance) else job.steps


def _joined(arrays: Sequence[Floats]) -> Floats:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
