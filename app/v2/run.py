"""An inference for those who await it: the plain route, and gRPC."""

from __future__ import annotations

from app import wire
from app.answers import Advanced
from app.errors import CarryoverError
from app.jobs import Advance, unheard
from app.tenancy import Caller
from app.v2.inference import Inference
from app.v2.statistics import Watch


async def run(asked: Inference, caller: Caller, limits: wire.Limits, watch: Watch) -> Advanced:
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
