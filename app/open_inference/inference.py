"""One request for a sequence, over HTTP or gRPC: its job for the engine, and the outputs of its answer.

A model answers the outputs of its network, and `OUTPUTS` beside them. A request that names outputs gets
those; a request that names none gets all that its parameters require.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from app.codec import chunks
from app.codec.limits import Limits, validate_session_id
from app.errors import CarryoverError, Malformed, UnknownModel, Unprocessable
from app.jobs.answers import ChunkAnswer, epoch_token, parse_epoch
from app.jobs.jobs import Advance, Client, Reply
from app.jobs.options import ChunkOptions
from app.open_inference import triton_errors
from app.open_inference.tensors import output_tensors
from models.arrays import AnyArray, Numbers
from models.forecaster import COVERS, EVENTS, Forecaster

# In an answer, and under other names here, or left out.
NO_TENSORS = frozenset(("predictions", "times", "forecast_times", COVERS))
VERSION = "1"  # artifacts have fingerprints, not numbers; the newest is served as version 1
MAX_SEQUENCE_ID = 2**64 - 1


@dataclass(frozen=True)
class Output:
    """An output beside those of the network.

    required_parameters : a request gets the output only with all of them
    is_available : whether a model has this output
    width : numbers per step
    dtype : of its numbers
    """

    name: str
    required_parameters: tuple[str, ...] = ()
    is_available: Callable[[Forecaster], bool] = lambda _: True
    width: Callable[[Forecaster], int] = lambda forecaster: forecaster.output_size
    dtype: str = "float32"


def _can_forecast(forecaster: Forecaster) -> bool:
    return not forecaster.missing


def _tracks_errors(forecaster: Forecaster) -> bool:
    return forecaster.learning.tracks_errors


def _forecasts_intervals(forecaster: Forecaster) -> bool:
    return _tracks_errors(forecaster) and _can_forecast(forecaster)


def _hears_speech(forecaster: Forecaster) -> bool:
    return forecaster.samples is not None and forecaster.samples.has_events


OUTPUTS = (
    Output("lower", ("level",), _tracks_errors),
    Output("upper", ("level",), _tracks_errors),
    Output("residuals", ("score",), _tracks_errors),
    Output("scores", ("score",), _tracks_errors, lambda _: 1),
    Output("observed", ("gaps",), _can_forecast, lambda forecaster: forecaster.input_size),
    Output("forecast", ("horizon",), _can_forecast),
    Output("forecast_lower", ("horizon", "level"), _forecasts_intervals),
    Output("forecast_upper", ("horizon", "level"), _forecasts_intervals),
    # A row for each event, whatever the steps: its kind, and the position of a sample.
    Output(EVENTS, (), _hears_speech, lambda _: 2, "int64"),
)
REQUIRED_PARAMETERS = {output.name: output.required_parameters for output in OUTPUTS}


class Parameters(msgspec.Struct):
    """Parameters of a request. Unknown ones, and Triton's `priority` and `timeout`, are ignored.

    gaps : NaN in a binary tensor means "not observed", as null does in JSON
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

    observations : [steps, inputs], finite
    has_steps : whether the tensors have an axis for the steps
    requested_outputs : names, each with whether its numbers are sent as bytes; empty for all
    binary : whether all outputs are sent as bytes, where none is named
    """

    model: str
    observations: Numbers
    parameters: Parameters
    id: str = ""
    requested_outputs: Mapping[str, bool] = {}
    binary: bool = False
    has_steps: bool = True

    def job(self, limits: Limits, reply: Reply, client: Client | None = None) -> Advance:
        """The job for the engine.

        Raises
        ------
        Unprocessable : no sequence is named, or a parameter is out of its range
        """
        parameters = self.parameters
        horizon = chunks.validate_horizon(parameters.horizon, limits)
        for name in self.requested_outputs:
            for parameter in REQUIRED_PARAMETERS.get(name, ()):
                if not getattr(parameters, parameter):
                    raise triton_errors.wrong_output(
                        name, self.model, f": it needs the parameter {parameter}"
                    )
        return Advance(
            session_of(parameters.sequence_id, self.model),
            self.observations,
            chunks.validate_position(parameters.at),
            None if parameters.epoch is None else parse_epoch(parameters.epoch),
            horizon,
            self.model,
            reply,
            options=self._options(),
            client=client,
            create=parameters.sequence_start,
            reset=parameters.sequence_start,
            delete=parameters.sequence_end,
        )

    def _options(self) -> ChunkOptions | None:
        parameters = self.parameters
        if parameters.gaps or parameters.score or parameters.level is not None:
            return ChunkOptions(parameters.level, parameters.score, parameters.gaps)
        return None

    def outputs(self, answer: ChunkAnswer) -> list[tuple[str, AnyArray]]:
        """Name and tensor of each output, in the order of the request."""
        tensors = output_tensors(answer.answer["predictions"], answer.ports)
        tensors |= {name: extra for name, extra in answer.answer.items() if name not in NO_TENSORS}
        if EVENTS in tensors:
            tensors[EVENTS] = tensors[EVENTS].astype(np.int64)
        if self.has_steps:
            tensors = {name: tensor[None] for name, tensor in tensors.items()}
        return [(name, tensors[name]) for name in self.requested_outputs or tensors]

    def to_triton_error(self, error: CarryoverError) -> CarryoverError:
        """The error with Triton's text."""
        if isinstance(error, UnknownModel):
            return triton_errors.model_unloaded(self.model)
        if self.parameters.sequence_start:
            return error
        return triton_errors.not_started(error, self.parameters.sequence_id, self.model)


def parse_parameters(values: Mapping[str, Any]) -> Parameters:
    """Parameters from plain values.

    Raises
    ------
    Malformed : naming a parameter of a wrong type
    """
    try:
        return msgspec.convert(values, Parameters)
    except msgspec.ValidationError as error:
        raise parse_error(str(error)) from None


def session_of(sequence: int | str, model: str) -> str:
    """The session id of a sequence: a number in decimal, or a text as it is.

    Raises
    ------
    Unprocessable : no sequence is named, or the id is not valid
    """
    if sequence in (0, ""):
        raise triton_errors.no_sequence(model)
    if isinstance(sequence, str):
        return validate_session_id(sequence)
    if not 0 < sequence <= MAX_SEQUENCE_ID:
        raise Unprocessable(f"Unable to parse 'sequence_id': {sequence} is not an unsigned 64-bit integer")
    return str(sequence)


def check_outputs(names: Mapping[str, bool], model: str, forecaster: Forecaster) -> Mapping[str, bool]:
    """Check the outputs that a request names, and return them.

    Raises
    ------
    Unprocessable : the model has no such output
    """
    if names:
        available = {port.name for port in forecaster.artifact.output_ports}
        available |= {output.name for output in OUTPUTS if output.is_available(forecaster)}
        for name in names:
            if name not in available:
                raise triton_errors.wrong_output(name, model)
    return names


def response_parameters(answer: ChunkAnswer) -> dict[str, str | int | bool]:
    """Position and epoch of the session after the chunk, as parameters of the response.

    Of samples also those that the outputs cover: from the first position up to the second, without it.
    """
    covers = answer.answer.get(COVERS)
    covered = (
        {} if covers is None else dict(zip(("covers_from", "covers_to"), map(int, covers[0]), strict=True))
    )
    return {
        "position": answer.position,
        "epoch": epoch_token(answer.epoch),
        "replayed": answer.replayed,
        **covered,
    }


def parse_error(message: str) -> Malformed:
    """Translate msgspec's ``Expected `int`, got `str` - at `$.parameters.at` ``."""
    problem, _, path = message.partition(" - at ")
    field = next(
        (part for part in reversed(path.strip("`$").replace("[", ".[").split(".")) if part[:1].isalpha()), ""
    )
    return Malformed(
        f"Unable to parse '{field}': {problem}" if field else f"Unable to parse the request: {problem}"
    )
