"""An inference for those who await it: the plain route, and gRPC."""

from __future__ import annotations

from app.access.callers import Caller
from app.codec import chunks
from app.errors import CarryoverError
from app.jobs.answers import Advanced
from app.jobs.jobs import Advance, unheard
from app.open_inference.inference import Inference
from app.open_inference.statistics import Watch


async def run(asked: Inference, caller: Caller, limits: chunks.Limits, watch: Watch) -> Advanced:
    """Ask the engine, and wait for its answer.

    Raises
    ------
    CarryoverError : worded as Triton words it
    """
    job: Advance = asked.job(limits, unheard)
    watch.ask()
    try:
        answer: Advanced = await caller.ask(job)
    except CarryoverError as error:
        raise asked.refusal(error) from None
    watch.reply()
    return answer
