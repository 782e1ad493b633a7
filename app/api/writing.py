"""Asks for a text slice by slice, for the routes that write text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from app.access.callers import Caller
from app.codec.limits import Limits
from app.errors import TooLarge, Unauthorized
from app.jobs.jobs import Write, discard_answer
from app.jobs.text import TextAnswer


async def written(caller: Caller, job: Write) -> AsyncIterator[TextAnswer]:
    """The text as far as it is written, behind each batch that went on with it. The last one is complete.

    What the session consumes is committed before it is answered. Nothing goes on once nobody asks.

    Raises
    ------
    CarryoverError : it cannot go on
    """
    session = job.session  # by the client's id: a job that is submitted gets the engine's name
    while True:
        answer: TextAnswer = await caller.ask(job)
        yield answer
        if answer.finish is not None:
            return
        if caller.is_revoked:
            raise Unauthorized("the API key was revoked")
        job = replace(
            job,
            session=session,
            at=answer.start,
            epoch=answer.epoch if job.keep else job.epoch,
            behind=None,
            create=False,
            draft=answer.draft,
            goes_on=True,
            reply=discard_answer,
        )


async def write_all(caller: Caller, job: Write) -> tuple[TextAnswer, bool]:
    """The complete text, and whether there was nothing left to write.

    Raises
    ------
    CarryoverError : it cannot be written
    """
    new = 0
    async for answer in written(caller, job):
        new += answer.written + answer.consumed
    return answer, new == 0


def check_text_size(job: Write, limits: Limits, field: str = "steps") -> None:
    """Refuse a text that is too long.

    Parameters
    ----------
    field : of the request, which says how many tokens are wanted

    Raises
    ------
    TooLarge
    """
    if job.request.steps > limits.steps:
        raise TooLarge(f"a text has at most {limits.steps} tokens", field=field, limit=limits.steps)
    if len(job.request.prompt) > limits.observations:
        raise TooLarge(
            f"a prompt has at most {limits.observations} characters or tokens",
            field="prompt",
            limit=limits.observations,
        )
