"""One request for a sequence, whatever it came by: what it asks of the engine, and what it gets.

`OUTPUTS` is the table of what a model can tell. A request that names its outputs gets those, and one that
names none gets all that its parameters ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from app.codec import chunks
from app.codec.limits import Limits, validate_session_id
from app.errors import CarryoverError, Malformed, UnknownModel, Unprocessable
from app.jobs.answers import ChunkAnswer, epoch_token, parse_epoch
from app.jobs.jobs import Advance, Reply
from app.jobs.options import ChunkOptions
from app.open_inference import triton_errors
from models.arrays import Floats
from models.forecaster import Forecaster

VERSION = "1"  # the protocol numbers versions; an artifact has a fingerprint, and the newest is served
OBSERVATIONS = "observations"
PREDICTIONS = "predictions"
MAX_SEQUENCE_ID = 2**64 - 1  # of a sequence


@dataclass(frozen=True)
class Output:
    """What a model can tell.

    needs : the parameters without which no request gets it
    has : whether this model has it at all
    width : numbers a step
    """

    name: str
    required_parameters: tuple[str, ...] = ()
    is_available: Callable[[Forecaster], bool] = lambda _: True
    width: Callable[[Forecaster], int] = lambda forecaster: forecaster.output_size


def _forecasts(forecaster: Forecaster) -> bool:
    return not forecaster.missing


def _judges(forecaster: Forecaster) -> bool:
    return forecaster.learning.tracks_errors


def _does_both(forecaster: Forecaster) -> bool:
    return _judges(forecaster) and _forecasts(forecaster)


OUTPUTS = (
    Output(PREDICTIONS),
    Output("lower", ("level",), _judges),
    Output("upper", ("level",), _judges),
    Output("residuals", ("score",), _judges),
    Output("scores", ("score",), _judges, lambda _: 1),
    Output("observed", ("gaps",), _forecasts, lambda forecaster: forecaster.input_size),
    Output("forecast", ("horizon",), _forecasts),
    Output("forecast_lower", ("horizon", "level"), _does_both),
    Output("forecast_upper", ("horizon", "level"), _does_both),
)
NEEDS = {output.name: output.required_parameters for output in OUTPUTS}


class Parameters(msgspec.Struct):
    """Of a request. Those of Triton that change nothing here (`priority`, `timeout`), and any other, pass.

    gaps : a NaN among numbers that come as bytes stands for what was not observed, as null does in JSON
    """

    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    binary_data_output: bool = False
    at: int | None = None
    epoch: str | None = None
    horizon: int = 0
    level: float | None = None
    score: bool = False
    gaps: bool = False


class Inference(msgspec.Struct, eq=False):
    """A chunk for a sequence.

    observations : [steps, inputs] of finite float32
    wanted : names of outputs, each with whether its numbers go as bytes; empty for every one there is
    binary : whether the outputs of a request that names none go as bytes
    """

    model: str
    observations: Floats
    parameters: Parameters
    id: str = ""
    requested_outputs: Mapping[str, bool] = {}
    binary: bool = False

    def job(self, limits: Limits, reply: Reply) -> Advance:
        """What is asked of the engine.

        Raises
        ------
        Unprocessable : it names no sequence, or a parameter is out of its range
        """
        told = self.parameters
        horizon = chunks.validate_horizon(told.horizon, limits)
        for name in self.requested_outputs:
            for parameter in NEEDS[name]:
                if not getattr(told, parameter):
                    raise triton_errors.wrong_output(
                        name, self.model, f": it needs the parameter {parameter}"
                    )
        return Advance(
            session_of(told.sequence_id, self.model),
            self.observations,
            chunks.validate_position(told.at),
            None if told.epoch is None else parse_epoch(told.epoch),
            horizon,
            self.model,
            reply,
            options=self._extras(),
            create=told.sequence_start,
            reset=told.sequence_start,
            delete=told.sequence_end,
        )

    def _extras(self) -> ChunkOptions | None:
        told = self.parameters
        if told.gaps or told.score or told.level is not None:
            return ChunkOptions(told.level, told.score, told.gaps)
        return None

    def outputs(self, answer: ChunkAnswer) -> list[tuple[str, Floats]]:
        """Name and numbers, [steps, width], of what is told back, in the order that was asked for."""
        if not self.requested_outputs:
            return list(answer.answer.items())
        return [(name, answer.answer[name]) for name in self.requested_outputs]

    def to_triton_error(self, error: CarryoverError) -> CarryoverError:
        """The error as Triton words it."""
        if isinstance(error, UnknownModel):
            return triton_errors.model_unloaded(self.model)
        if self.parameters.sequence_start:
            return error
        return triton_errors.not_started(error, self.parameters.sequence_id, self.model)


def parameters(told: Any) -> Parameters:
    """Parameters that came as plain values.

    Raises
    ------
    Unprocessable : naming the one of a wrong type
    """
    try:
        return msgspec.convert(told, Parameters)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None


def session_of(sequence: int | str, model: str) -> str:
    """The session that a sequence is: a number in decimal, a text as it is.

    Raises
    ------
    Unprocessable : none is named, or it can be none
    """
    if sequence in (0, ""):
        raise triton_errors.no_sequence(model)
    if isinstance(sequence, str):
        return validate_session_id(sequence)
    if not 0 < sequence <= MAX_SEQUENCE_ID:
        raise Unprocessable(f"Unable to parse 'sequence_id': {sequence} is no unsigned integer of 64 bits")
    return str(sequence)


def check_outputs(wanted: Mapping[str, bool], model: str, forecaster: Forecaster) -> Mapping[str, bool]:
    """Outputs that were asked for by name, as they are.

    Raises
    ------
    Unprocessable : the model has none of that name
    """
    if wanted:
        there = {output.name for output in OUTPUTS if output.is_available(forecaster)}
        for name in wanted:
            if name not in there:
                raise triton_errors.wrong_output(name, model)
    return wanted


def response_parameters(answer: ChunkAnswer) -> dict[str, str | int | bool]:
    """Where the session is now, as parameters of the response."""
    return {
        "position": answer.position,
        "epoch": epoch_token(answer.epoch),
        "replayed": answer.replayed,
    }


def parse_error(complaint: str) -> Malformed:
    """Translate msgspec's ``Expected `int`, got `str` - at `$.parameters.at` ``."""
    what, _, path = complaint.partition(" - at ")
    field = next(
        (part for part in reversed(path.strip("`$").replace("[", ".[").split(".")) if part[:1].isalpha()), ""
    )
    return Malformed(
        f"Unable to parse '{field}': {what}" if field else f"Unable to parse the request: {what}"
    )
