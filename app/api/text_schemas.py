"""The bodies and answers of the routes that write text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeAliasType

from app.api.schemas import FirstErrorOnly, Precondition, RequestBody, SessionId
from app.codec.limits import MAX_MODEL_NAME

MAX_STOPS = 16
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, le=2**24)]
# Types with names of their own: generated clients treat them as one, whichever of the two it is.
Prompt = TypeAliasType("Prompt", str | Annotated[list[Token], FirstErrorOnly()])
StopTexts = TypeAliasType("StopTexts", StopText | Annotated[list[StopText], FirstErrorOnly()])


def _without_default(schema: dict[str, Any]) -> None:
    """The generator for Java writes no code for the default of a union."""
    del schema["default"]


NoPrompt = Field(
    "",
    description="Observed before the first token is drawn: a text, or tokens; nothing when absent.",
    json_schema_extra=_without_default,
)
Temperature = Annotated[
    float, Field(ge=0, le=100, description="Divides the logits; 0 takes the likeliest token.")
]
TopK = Annotated[int | None, Field(ge=0, description="Draw from so many of the likeliest tokens only.")]
TopP = Annotated[
    float | None,
    Field(gt=0, le=1, description="Draw from the likeliest tokens only that are as likely as this together."),
]
MinP = Annotated[
    float | None,
    Field(ge=0, le=1, description="Draw from tokens only that are this share as likely as the likeliest."),
]
RepetitionPenalty = Annotated[
    float | None,
    Field(
        ge=0.01,
        le=100,
        description="Makes tokens less likely that the prompt or the text has; 1 does not.",
    ),
]


class GenerateRequest(Precondition):
    """Write a text behind what the session has observed."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"prompt": "The sea ", "steps": 80, "temperature": 0.8, "seed": 7}]},
    )
    steps: int = Field(ge=1, description="Most tokens to write.")
    prompt: Prompt = NoPrompt
    temperature: Temperature = 1.0
    top_k: TopK = None
    top_p: TopP = None
    min_p: MinP = None
    repetition_penalty: RepetitionPenalty = None
    seed: int | None = Field(
        None,
        ge=0,
        lt=2**64,
        description="With the position of a token it decides the draw. The session's epoch when absent.",
    )
    stop: Annotated[list[StopText | Token], FirstErrorOnly()] = Field(
        default_factory=list,
        max_length=MAX_STOPS,
        description="Texts and tokens, each of which ends the text. It is the last of the answer.",
    )
    keep: bool = Field(
        True, description="Whether the session consumes prompt and text; otherwise a copy of it does."
    )
    model: str | None = Field(
        None, max_length=MAX_MODEL_NAME, description="The model of the session, if this request creates it."
    )


class Generated(BaseModel):
    """A text that was written."""

    session: str
    model: str
    position: int = Field(description="Of the session, or of its copy, behind the last token.")
    epoch: str
    replayed: bool = Field(description="Whether the session had consumed all of it before.")
    tokens: list[int]
    text: str
    finish: Literal["length", "stop"]


class StreamOptions(RequestBody):
    """What else a stream of a completion has."""

    include_usage: bool = False


class CompletionRequest(RequestBody):
    """A completion as OpenAI's API has it. With `user`, the session of that id consumes prompt and text."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "The sea ", "max_tokens": 80, "seed": 7}]}
    )
    model: str | None = Field(None, max_length=MAX_MODEL_NAME, description="The default model when absent.")
    prompt: Prompt = NoPrompt
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to write; 16 when absent.")
    temperature: Temperature | None = None
    top_p: TopP = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64, description="Random when absent.")
    stop: StopTexts | None = Field(
        None, description="At most 16 texts, each of which ends the completion and is not part of it."
    )
    n: Literal[1] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: SessionId | None = Field(
        None, description="A session, which is created if it does not exist. Without it, nothing is kept."
    )
    top_k: TopK = None
    min_p: MinP = None
    repetition_penalty: RepetitionPenalty = None


class CompletionChoice(BaseModel):
    """The only text of a completion."""

    text: str
    index: int
    logprobs: None
    finish_reason: Literal["length", "stop"] | None


class CompletionUsage(BaseModel):
    """How long a completion is."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(BaseModel):
    """A completion as OpenAI's API answers it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class OpenAiError(BaseModel):
    """An error as OpenAI's clients read it, with the whole problem beside it."""

    error: dict[str, Any]
    problem: dict[str, Any]
