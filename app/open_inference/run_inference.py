"""An inference that is awaited: by the ordinary HTTP route and by gRPC."""

from __future__ import annotations

from app.access.callers import Caller
from app.codec.limits import Limits
from app.errors import CarryoverError
from app.jobs.answers import ChunkAnswer
from app.jobs.jobs import Advance, discard_answer
from app.open_inference.inference import Inference
from app.open_inference.statistics import RequestTimer


async def run_inference(
    inference: Inference, caller: Caller, limits: Limits, timer: RequestTimer
) -> ChunkAnswer:
    """Submit the job of an inference, and wait for its answer.

    Raises
    ------
    CarryoverError : with Triton's texts
    """
    job: Advance = inference.job(limits, discard_answer)
    timer.mark_submitted()
    try:
        answer: ChunkAnswer = await caller.ask(job)
    except CarryoverError as error:
        raise inference.to_triton_error(error) from None
    timer.mark_answered()
    return answer
