"""Texts: the tokens that a model draws and observes itself. All texts of one model are written in one pass.

begin -> observe the prompts -> write -> stage what the sessions consumed, remembered as one chunk a text

A session remembers a text as one chunk, which began where the text did and grows with each batch. A retry, a
stream that was cut off and a replica that takes over find it by its beginning and the digest of the request,
answer what there is and go on behind it. A text on a copy is not remembered: its answer has all that the next
job needs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from app.engine import exactly_once
from app.engine.batch import Batch, SessionExpired, Text, count_observations
from app.engine.residents import Residents
from app.engine.time_budget import TextBudget
from app.errors import (
    CannotWrite,
    CarryoverError,
    NothingObserved,
    OutOfStep,
    SessionExists,
    StepFailed,
    Unprocessable,
)
from app.jobs.jobs import Write
from app.jobs.text import Draft, TextAnswer, TextRequest
from app.session import recent_answers
from app.session.history import Observed
from app.session.names import id_of
from app.session.rows import Answer, Rows, scalar
from app.session.slab import Slab
from models.arrays import Floats
from models.forecaster import Forecaster, RunTooLongError
from models.generation.sampling import Sampling, TokenSampler
from models.generation.stopping import StopWatch
from models.generation.vocabulary import Vocabulary

log = logging.getLogger("carryover.engine")

MAX_SLICE = 1024  # tokens of a text, or of its prompt, in one batch
NOT_FINITE = "the network produced NaN or infinity; the session was not advanced"


# --- beginning, or going on


def begin(job: Write, residents: Residents, batch: Batch) -> None:
    """Add a text to the batch, or answer it if it is complete already.

    Raises
    ------
    CarryoverError : it cannot be written, or the session is somewhere else
    SessionExpired
    """
    if job.keep:
        slab, text = _of_session(job, residents, batch)
    elif job.draft is not None:
        slab, text = _of_draft(job, job.draft, residents)
    else:
        slab, text = _of_copy(job, residents, batch)
    if text.finish is not None:
        batch.final_answers.append((job, _answer(slab, text)))
        return
    batch.texts.setdefault(slab, []).append(text)


def _of_session(job: Write, residents: Residents, batch: Batch) -> tuple[Slab, Text]:
    """A text that the session consumes: a new one, or one that it remembers."""
    is_expected = bool(job.at) or job.behind is not None or job.epoch is not None or not job.create
    # Here, where an error refuses this text alone; staging is for all texts together.
    digest = job.request.digest
    slab, row = _place(job, is_expected, residents, batch)
    rows = slab.read(np.array([row]))
    position, epoch = scalar(rows.headers, "position"), scalar(rows.headers, "epoch")
    exactly_once.check_epoch(job.session, epoch, job.epoch, position)
    at = job.at
    if job.behind is not None:
        at = _beginning(job, rows, job.behind, digest)
    if at is None or at == position:
        begun = _prompt(job.request, slab.forecaster)
        text = _new_text(job, slab, row, position, epoch, rows, begun)
        text.digest = digest
        return slab, text
    found = recent_answers.began_at(rows, 0, at)
    if found is None:
        raise OutOfStep(
            f"session {id_of(job.session)!r} is at {position}, the text is to begin at {at}",
            position=position,
        )
    chunk, length = found
    if recent_answers.digest(rows, 0, chunk) != digest:
        raise OutOfStep(
            f"session {id_of(job.session)!r} is at {position}: something else than this text began at {at}",
            position=position,
        )
    remembered = recent_answers.answer(rows, 0, chunk)
    observed = int(remembered["observed"][0])
    tokens: list[int] = remembered["tokens"].astype(np.int64).tolist()
    vocabulary = _vocabulary(slab.forecaster)
    watch = StopWatch(job.request.stop, vocabulary, tokens)
    prompt: Sequence[int] = range(int(remembered["prompt"][0]))  # only their number, if nothing is left to do
    text = Text(
        job, row, at, epoch, rows.carries[0], prompt, observed, tokens, watch, (observed, len(tokens)), digest
    )
    if text.finish is None:
        if chunk:
            raise OutOfStep(
                f"session {id_of(job.session)!r} is at {position}: another request has moved it since its "
                f"text from {at} to {at + length}, which was not complete",
                position=position,
            )
        text.prompt = _prompt(job.request, slab.forecaster)
    return slab, text


def _beginning(job: Write, rows: Rows, behind: int, digest: int) -> int:
    """Where the text began that is known up to a position."""
    found = recent_answers.reached(rows, 0, behind)
    if found is not None and recent_answers.digest(rows, 0, found[0]) == digest:
        return found[1]
    position = scalar(rows.headers, "position")
    raise OutOfStep(
        f"session {id_of(job.session)!r} is at {position} and remembers no such text that came to {behind}",
        position=position,
    )


def _place(job: Write, is_expected: bool, residents: Residents, batch: Batch) -> tuple[Slab, int]:
    found = residents.find(job.session)
    if found is None:
        missing = batch.missing.get(job.session)
        if is_expected or isinstance(missing, CarryoverError):
            raise exactly_once.missing_session_error(job.session, missing)
        slab = residents.models.slab_for_model(job.model)
        _prompt(job.request, slab.forecaster)  # a refused text creates no session
        return slab, residents.create(job.session, slab, None, batch)
    slab, row = found
    _check_model(job, slab)
    if scalar(slab.headers, "deadline", row) < batch.now:
        raise SessionExpired
    return found


def _check_model(job: Write, slab: Slab) -> None:
    name = slab.forecaster.artifact.name
    if job.model not in (None, name):
        raise SessionExists(f"session {id_of(job.session)!r} runs model {name!r}, not {job.model!r}")


def _of_copy(job: Write, residents: Residents, batch: Batch) -> tuple[Slab, Text]:
    """A new text on a copy of a session; on a new carry if the session does not exist."""
    if residents.find(job.session) is None and job.create and not job.at and job.epoch is None:
        missing = batch.missing.get(job.session)
        if isinstance(missing, CarryoverError):
            raise missing
        slab = residents.models.slab_for_model(job.model)
        tokens = _prompt(job.request, slab.forecaster)
        fresh = Rows(np.zeros(1, slab.headers.dtype), slab.forecaster.new_carry[None])
        return slab, _new_text(job, slab, None, 0, 0, fresh, tokens)
    slab, row = residents.require(job.session, batch, job.at, job.epoch)
    _check_model(job, slab)
    rows = slab.read(np.array([row]))
    position, epoch = scalar(rows.headers, "position"), scalar(rows.headers, "epoch")
    text = _new_text(job, slab, row, position, epoch, rows, _prompt(job.request, slab.forecaster))
    text.row = None
    return slab, text


def _of_draft(job: Write, draft: Draft, residents: Residents) -> tuple[Slab, Text]:
    """A text on a copy that goes on."""
    slab = residents.models.find_slab(draft.fingerprint)
    if slab is None:
        raise StepFailed(f"the network of the copy of session {id_of(job.session)!r} is no longer loaded")
    prompt, tokens = _prompt(job.request, slab.forecaster), list(draft.tokens)
    watch = StopWatch(job.request.stop, _vocabulary(slab.forecaster), tokens)
    before = draft.observed, len(tokens)
    return slab, Text(
        job, None, draft.start, draft.epoch, draft.carry, prompt, draft.observed, tokens, watch, before
    )


def _new_text(
    job: Write, slab: Slab, row: int | None, position: int, epoch: int, rows: Rows, prompt: Sequence[int]
) -> Text:
    if not prompt and rows.headers["since_reset"][0] == 0:
        raise NothingObserved(
            f"session {id_of(job.session)!r} has observed nothing since it was created or reset: "
            "send a prompt",
            field="prompt",
        )
    watch = StopWatch(job.request.stop, _vocabulary(slab.forecaster))
    return Text(job, row, position, epoch, rows.carries[0], prompt, 0, [], watch, (0, 0))


def _prompt(request: TextRequest, forecaster: Forecaster) -> Sequence[int]:
    """The tokens of the prompt.

    Raises
    ------
    CannotWrite : the model is none of text
    Unprocessable : it has a character or a token that the model does not know
    """
    vocabulary = _vocabulary(forecaster)
    if isinstance(request.prompt, str):
        try:
            return vocabulary.encode(request.prompt)
        except ValueError as error:
            raise Unprocessable(f"prompt: {error}", field="prompt") from None
    for i, token in enumerate(request.prompt):
        if not 0 <= token < len(vocabulary):
            raise Unprocessable(
                f"prompt: token {token} (at {i}) is not among 0 to {len(vocabulary) - 1}", field="prompt"
            )
    return request.prompt


def _vocabulary(forecaster: Forecaster) -> Vocabulary:
    text = forecaster.artifact.text
    if text is None:
        raise CannotWrite(
            f"the model {forecaster.artifact.name!r} has no vocabulary: it writes no text. "
            "GET /v1/models lists the models that do"
        )
    return text.vocabulary


# --- writing


def write(slab: Slab, texts: Sequence[Text], budget: TextBudget, seconds: float, batch: Batch) -> list[Text]:
    """Go on with each text of one model by a slice, for about so long. Returns those that did not fail."""
    forecaster, carries = slab.forecaster, [text.carry for text in texts]
    try:
        _go_on(forecaster, texts, budget, seconds)
    except RunTooLongError as error:
        # None is tried alone: each could take as long again, and everybody would wait.
        log.error("writing %d texts was ended: %s", len(texts), error)
        for text in texts:
            batch.refuse(text.job, StepFailed(f"{error}; the session was not advanced"))
        return []
    except Exception:
        log.exception("writing %d texts raised; each is tried alone", len(texts))
        for text, carry in zip(texts, carries, strict=True):
            _rewind(text, carry, forecaster)
        texts = _one_by_one(forecaster, texts, budget, seconds, batch)
        if not texts:
            return []
    finite = forecaster.finite_carries(np.stack([text.carry for text in texts])).tolist()
    for text, is_finite in zip(texts, finite, strict=True):
        if not is_finite:
            batch.refuse(text.job, StepFailed(NOT_FINITE))
    return [text for text, is_finite in zip(texts, finite, strict=True) if is_finite]


def _go_on(forecaster: Forecaster, texts: Sequence[Text], budget: TextBudget, seconds: float) -> None:
    prompted = [text for text in texts if text.observed < len(text.prompt)]
    if prompted:
        size = min(budget.max_prompt(len(prompted), seconds), MAX_SLICE)
        _observe_prompts(forecaster, prompted, size)
    ready = [text for text in texts if text.observed == len(text.prompt)]
    if ready:
        _write(forecaster, ready, seconds)


def _rewind(text: Text, carry: Floats, forecaster: Forecaster) -> None:
    """Put a text back to where this batch took it up."""
    text.carry = carry
    text.observed, known = text.before
    del text.tokens[known:]
    text.watch = StopWatch(text.job.request.stop, _vocabulary(forecaster), text.tokens)


def _one_by_one(
    forecaster: Forecaster, texts: Sequence[Text], budget: TextBudget, seconds: float, batch: Batch
) -> list[Text]:
    """Go on with each text alone, all within the time of one batch. Returns those that did not fail."""
    written = []
    for text in texts:
        try:
            _go_on(forecaster, [text], budget, seconds / len(texts))
        except Exception as error:  # noqa: BLE001  (whatever it was, it fails this text alone)
            batch.refuse(text.job, StepFailed(f"the text failed: {error}; the session was not advanced"))
        else:
            written.append(text)
    return written


def _observe_prompts(forecaster: Forecaster, texts: Sequence[Text], size: int) -> None:
    """Observe the next tokens of each prompt, at most `size`."""
    parts = [text.prompt[text.observed :][:size] for text in texts]
    observations = forecaster.numbers(np.concatenate(parts).astype(np.float64)[:, None])
    lengths = np.array(list(map(len, parts)))
    _, carries = forecaster.advance(observations, lengths, np.stack([text.carry for text in texts]))
    for text, part, carry in zip(texts, parts, carries, strict=True):
        text.observed += len(part)
        text.carry = carry.copy()


def _write(forecaster: Forecaster, texts: Sequence[Text], seconds: float) -> None:
    """Draw the next tokens of each text."""
    vocabulary = _vocabulary(forecaster)
    sampler = TokenSampler(list(map(_sampling, texts)), len(vocabulary), vocabulary.unknown)
    for i, text in enumerate(texts):
        sampler.note(i, np.array([*text.prompt, *text.tokens], np.int64))
    tokens, carries = forecaster.write_text(
        np.stack([text.carry for text in texts]),
        np.array([text.position for text in texts]),
        np.array([min(MAX_SLICE, text.job.request.steps - len(text.tokens)) for text in texts]),
        sampler,
        [text.watch for text in texts],
        seconds,
    )
    for text, new, carry in zip(texts, tokens, carries, strict=True):
        text.tokens += new
        text.carry = carry.copy()


def _sampling(text: Text) -> Sampling:
    request = text.job.request
    return replace(request.sampling, seed=text.epoch if request.seed is None else request.seed)


# --- staging


def stage(slab: Slab, texts: Sequence[Text], batch: Batch, recent_bytes: int) -> None:
    """Stage the sessions that consumed their texts, and answer all texts."""
    kept = [text for text in texts if text.row is not None]
    if kept:
        _stage_sessions(slab, kept, batch, recent_bytes)
    for text in texts:
        answers = batch.final_answers if text.row is None else batch.answers_if_committed
        answers.append((text.job, _answer(slab, text)))


def _stage_sessions(slab: Slab, texts: Sequence[Text], batch: Batch, recent_bytes: int) -> None:
    rows = np.array([text.row for text in texts])
    after = slab.read(rows)
    after.carries[:] = [text.carry for text in texts]
    headers = after.headers
    for i, text in enumerate(texts):
        if sum(text.before):
            recent_answers.forget_newest(after, i)
    count_observations(
        headers["position"], headers["since_reset"], headers["seen"], headers["deadline"], headers["ttl"],
        np.array([text.position - text.start - sum(text.before) for text in texts]), batch.now,
    )  # fmt: skip
    recent_answers.remember(
        after,
        np.array([text.position - text.start for text in texts]),
        np.array([text.digest for text in texts], np.uint64),
        np.zeros((len(texts), slab.forecaster.short_answer_size), np.float32),
        {i: _remembered(text) for i, text in enumerate(texts)},
        recent_bytes,
    )
    batch.stage(slab, [text.job.session for text in texts], rows, after, _observed(slab, texts))


def _observed(slab: Slab, texts: Sequence[Text]) -> Observed | None:
    """What the sessions consumed in this batch; None if no past is kept."""
    if slab.histories is None:
        return None
    parts = [[*text.prompt[text.before[0] : text.observed], *text.tokens[text.before[1] :]] for text in texts]
    tokens = slab.forecaster.numbers(np.concatenate(parts).astype(np.float64)[:, None])
    nothing = np.empty((len(tokens), 0), slab.forecaster.output_type)
    return Observed(np.array(list(map(len, parts))), tokens, nothing)


def _remembered(text: Text) -> Answer:
    """What the session remembers of its text. A token fits a float32: it is far below 2**24."""
    return {
        "prompt": np.array([len(text.prompt)], np.float32),
        "observed": np.array([text.observed], np.float32),
        "tokens": np.array(text.tokens, np.float32),
    }


def _answer(slab: Slab, text: Text) -> TextAnswer:
    pieces, job = _vocabulary(slab.forecaster).pieces, text.job
    observed, known = text.before
    read = tuple(text.prompt[observed : text.observed])
    draft = None
    if not job.keep:
        draft = Draft(
            slab.forecaster.fingerprint, text.start, text.epoch, len(text.prompt), text.observed,
            tuple(text.tokens), text.carry,
        )  # fmt: skip
    return TextAnswer(
        session=job.session,
        model=slab.forecaster.artifact.name,
        start=text.start,
        position=text.position,
        epoch=text.epoch,
        prompt=len(text.prompt),
        tokens=tuple(text.tokens),
        pieces=tuple(pieces[token] for token in text.tokens),
        finish=text.finish,
        written=len(text.tokens) - known,
        consumed=text.position - text.start - observed - known,
        draft=draft,
        read=read,
        read_pieces=tuple(pieces[token] for token in read),
    )
