"""The end of a tick: its answers leave, and what it did is counted."""

from __future__ import annotations

import logging

from app.engine.wave import Wave
from app.jobs.answers import Advanced, AdvancedMany
from app.jobs.jobs import Advance, Counts
from app.observability.metrics import Metrics

log = logging.getLogger("carryover.engine")


def reply(wave: Wave, metrics: Metrics) -> None:
    """Call the reply of every job of the wave with its answer."""
    _count(wave, metrics)
    use: Counts | None = None
    count = 0  # whose jobs these are, and how many in a row
    for job, outcome in wave.moved + wave.settled:
        if type(job) is Advance and job.use is not None:
            if job.use is not use:
                if use is not None:
                    use.answered(count)
                use, count = job.use, 0
            count += 1
        try:
            job.reply(outcome)
        except Exception:
            log.exception("a reply could not be given; the others go on")
    if use is not None:
        use.answered(count)


def _count(wave: Wave, metrics: Metrics) -> None:
    """What the wave did, before its answers leave: refusals are counted where they are told."""
    chunks = observations = 0
    for job, outcome in wave.moved:
        if type(job) is Advance:
            chunks += 1
            observations += len(job.observations)
        elif type(outcome) is AdvancedMany:
            chunks += len(outcome.steps)
            observations += int(outcome.steps.sum())
    metrics.chunks += chunks
    metrics.observations += observations
    for forecaster, judged in wave.judged:
        metrics.judge(forecaster, judged)
    for _, outcome in wave.settled:
        if type(outcome) is Advanced:
            metrics.replays += outcome.replayed
            metrics.forecasts += not outcome.replayed
