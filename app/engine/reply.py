"""The end of a tick: sends the answers, and counts the batch in the metrics."""

from __future__ import annotations

import logging

from app.engine.batch import Batch
from app.errors import CarryoverError, StepFailed
from app.jobs.answers import BulkAnswer, ChunkAnswer
from app.jobs.jobs import Advance, AdvanceMany, Forecast, Job, Outcome, UsageCounter
from app.jobs.text import TextAnswer
from app.observability.metrics import Metrics

log = logging.getLogger("carryover.engine")

FAILED = "the tick failed; see the server's log"


def reply(batch: Batch, metrics: Metrics) -> None:
    """Call the `reply` of every job of the batch with its answer."""
    _count(batch, metrics)
    usage: UsageCounter | None = None
    count = 0  # chunks in a row that belong to this usage
    for job, outcome in batch.answers_if_committed + batch.final_answers:
        if isinstance(job, Advance | AdvanceMany) and job.usage is not None:
            if job.usage is not usage:
                if usage is not None:
                    usage.release(count)
                usage, count = job.usage, 0
            count += len(job.sessions)
        call_reply(job, outcome)
    if usage is not None:
        usage.release(count)


def call_reply(job: Job, outcome: Outcome) -> None:
    """Call the `reply` of a job. An exception is logged."""
    try:
        job.reply(outcome)
    except Exception:
        log.exception("the reply of a job raised; the other jobs are answered")


def _count(batch: Batch, metrics: Metrics) -> None:
    """Count what the batch did, before its answers are sent. Refusals are counted where they are sent."""
    chunks = observations = 0
    for job, outcome in batch.answers_if_committed:
        if type(job) is Advance:
            chunks += 1
            observations += len(job.observations)
        elif type(outcome) is BulkAnswer:
            chunks += len(outcome.steps)
            observations += int(outcome.steps.sum())
        elif type(outcome) is TextAnswer:
            observations += outcome.consumed
            metrics.tokens += outcome.written
    metrics.chunks += chunks
    metrics.observations += observations
    for forecaster, scores in batch.scores:
        metrics.record_scores(forecaster, scores)
    for job, outcome in batch.final_answers:
        if type(job) is Forecast:
            metrics.forecasts += type(outcome) is ChunkAnswer
        elif type(outcome) is TextAnswer:
            metrics.tokens += outcome.written
        else:
            metrics.replays += type(outcome) in (ChunkAnswer, BulkAnswer)


def fail_batch(batch: Batch, error: Exception) -> None:
    """Answer every job of a tick that failed. No session has changed, so every client may retry."""
    if isinstance(error, CarryoverError):
        log.error("tick failed: %s", error)
    else:
        # Do not log str(error), because it may contain a session's name. The log's formatter prints the
        # traceback of `exc_info` without the exception's message.
        log.error("tick failed", exc_info=error)
    refusal = error if isinstance(error, CarryoverError) else StepFailed(FAILED)
    batch.fail(refusal)
    answered = {id(job) for job, _ in batch.final_answers}
    batch.unfinished.clear()
    batch.retries = ()
    batch.final_answers += [
        (job, refusal) for job in batch.reply_targets(batch.jobs) if id(job) not in answered
    ]
