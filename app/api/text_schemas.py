"""The bodies and answers of the routes that write text."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from app.api.schemas import FirstErrorOnly, Precondition, RequestBody, SessionId
from app.codec.limits import MAX_MODEL_NAME

MAX_STOPS = 16
MAX_TOKEN = 2**24  # a session remembers its tokens as float32, which holds every whole number up to this
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Token = Annotated[int, Field(ge=0, le=MAX_TOKEN)]
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
TopK = Annotated[
    int | None,
    Field(ge=0, le=MAX_TOKEN, description="Draw from so many of the likeliest tokens only."),
]
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


def _only_prompt(value: Any) -> Any:
    """The text or the tokens in a list with nothing else, which is how some clients send every prompt.

    Null is as none.

    Raises
    ------
    PydanticCustomError : the list has more prompts
    """
    if value is None:
        return ""
    if not isinstance(value, list) or not value or not isinstance(value[0], str | list):
        return value
    if len(value) > 1:
        message = "{count} prompts; a request has one: send a request for each"
        raise PydanticCustomError("several_prompts", message, {"count": len(value)})
    return value[0]


def _only(*defaults: Any) -> AfterValidator:
    """Accept null and what stands for a field that is left out. The server does nothing with the field."""

    def check(value: Any) -> None:
        if value is not None and value not in defaults:
            shown = " or ".join(json.dumps(default) for default in (*defaults, None))
            raise PydanticCustomError("unsupported", "not supported here: leave it out, or send " + shown)

    return AfterValidator(check)


class CompletionRequest(RequestBody):
    """A completion as OpenAI's API has it. With `user`, the session of that id consumes prompt and text."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "The sea ", "max_tokens": 80, "seed": 7}]}
    )
    model: str | None = Field(None, max_length=MAX_MODEL_NAME, description="The default model when absent.")
    prompt: Annotated[Prompt, BeforeValidator(_only_prompt)] = Field(
        "",
        description="Observed before the first token is drawn: a text, or tokens; nothing when absent. "
        "A list of one text is that text.",
        json_schema_extra=_without_default,
    )
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to write; 16 when absent.")
    temperature: Temperature | None = None
    top_p: TopP = None
    seed: int | None = Field(None, ge=-(2**63), lt=2**64, description="Random when absent.")
    stop: StopTexts | None = Field(
        None, description="At most 16 texts, each of which ends the completion and is not part of it."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: SessionId | None = Field(
        None, description="A session, which is created if it does not exist. Without it, nothing is kept."
    )
    top_k: TopK = None
    min_p: MinP = None
    repetition_penalty: RepetitionPenalty = None
    n: Annotated[int | None, _only(1)] = Field(None, description="Only 1 is supported.")
    best_of: Annotated[int | None, _only(1)] = Field(None, description="Only 1 is supported.")
    echo: Annotated[bool | None, _only(False)] = Field(None, description="Only false is supported.")
    logprobs: Annotated[int | None, _only()] = Field(None, description="Not supported.")
    suffix: Annotated[str | None, _only("")] = Field(None, description="Not supported.")
    frequency_penalty: Annotated[float | None, _only(0)] = Field(None, description="Only 0 is supported.")
    presence_penalty: Annotated[float | None, _only(0)] = Field(None, description="Only 0 is supported.")
    logit_bias: Annotated[dict[str, float] | None, _only({})] = Field(
        None, description="Only an empty object is supported."
    )


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


class TextModel(BaseModel):
    """A model that writes text, as OpenAI's API describes one."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When its artifact was written, in seconds since 1970.")
    owned_by: str


class TextModelList(BaseModel):
    """The models that write text."""

    object: Literal["list"]
    data: list[TextModel]


class OpenAiError(BaseModel):
    """An error as OpenAI's clients read it, with the whole problem beside it."""

    error: dict[str, Any]
    problem: dict[str, Any]
