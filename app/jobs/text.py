"""The text that a model writes: a job for the next tokens of it, and their answer.

A text takes several jobs: each is answered behind one batch with what there is by then, and whoever wants the
rest submits the next. What a session consumes is committed with each job and remembered with the session. So
a text goes on behind a crash and on another replica, and nothing is left open when nobody asks any more.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec

from models.arrays import Floats
from models.generation.sampling import Sampling
from models.generation.stopping import Stop

LENGTH, STOP = "length", "stop"


@dataclass(frozen=True, slots=True)
class TextRequest:
    """The text that is wanted.

    prompt : observed first: a text, or tokens
    steps : most tokens behind the prompt
    seed : None for the session's epoch
    """

    prompt: str | tuple[int, ...] = ()
    steps: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stop: Stop = field(default_factory=Stop)

    @property
    def digest(self) -> int:
        """64 bits of all of it, to tell a retry from another request."""
        return int.from_bytes(hashlib.blake2b(_encode(self), digest_size=8).digest(), "little")


_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Draft:
    """A text on a copy of a session, as far as it is written. The session knows nothing of it.

    fingerprint : of the network
    start : position at which the text began
    epoch : of the session; 0 of a text without one
    prompt : how many tokens of the prompt there are
    observed : how many of them were observed
    tokens : behind the prompt
    carry : [carry_size], behind the last of them
    """

    fingerprint: str
    start: int
    epoch: int
    prompt: int
    observed: int
    tokens: tuple[int, ...]
    carry: Floats


@dataclass(slots=True, eq=False)
class TextAnswer:
    """A text as far as it is written.

    start : position at which it began, before its prompt
    position : behind its last token
    prompt : tokens of the prompt
    tokens, pieces : behind the prompt, and the text of each
    finish : why it is complete; None if it goes on
    written : tokens that this job has added to the text; the session observed them with `consumed` in all
    read, read_pieces : of these, the tokens of the prompt, and the text of each
    draft : to be given back with the next job, if the text is on a copy
    """

    session: str
    model: str
    start: int
    position: int
    epoch: int
    prompt: int
    tokens: tuple[int, ...]
    pieces: tuple[str, ...]
    finish: str | None
    written: int = 0
    consumed: int = 0
    draft: Draft | None = None
    read: tuple[int, ...] = ()
    read_pieces: tuple[str, ...] = ()
