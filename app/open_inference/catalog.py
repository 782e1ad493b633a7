"""The models that are served: metadata, configuration, statistics and repository of the protocol."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from functools import reduce
from math import inf
from typing import Any

from app.access.callers import Caller
from app.config import Settings
from app.engine.engine import Engine
from app.errors import BadModel, Unavailable, UnknownModel, Unprocessable
from app.jobs.jobs import Adopt, Retire
from app.model_library import ModelLibrary
from app.open_inference import triton_errors
from app.open_inference.inference import OUTPUTS, VERSION
from app.open_inference.statistics import RequestTimer, Statistics, add_statistics
from app.open_inference.tensors import DATATYPES, tensor_shape
from app.workers.workers import Workers
from models.forecaster import Forecaster
from models.nets.signature import Control, Port, State

EXTENSIONS = (
    "sequence",
    "sequence(string_id)",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "model_configuration",
    "model_repository",
)
PLATFORM = "carryover"
FOREVER = 2**64 - 1  # microseconds


class Catalog:
    """The models of a server under `/v2`.

    Parameters
    ----------
    library : artifacts on disk, from which models are loaded
    version : version of the server
    workers : the other workers of the server; None if there are none
    """

    def __init__(
        self,
        engine: Engine,
        library: ModelLibrary,
        settings: Settings,
        version: str,
        workers: Workers | None = None,
    ) -> None:
        self.engine = engine
        self.library = library
        self.settings = settings
        self.version = version
        self.statistics: defaultdict[str, Statistics] = defaultdict(Statistics)
        self._workers = workers
        if workers is not None:
            workers.answers["statistics"] = self._own_statistics

    def server_metadata(self) -> dict[str, Any]:
        """Name, version and supported extensions of the server."""
        return {"name": "carryover", "version": self.version, "extensions": list(EXTENSIONS)}

    def check_ready(self) -> None:
        """Check that the server accepts requests.

        Raises
        ------
        Unavailable : it does not
        """
        if problems := self.engine.readiness_problems():
            raise Unavailable(f"not ready: {', '.join(problems)}")

    def current_forecaster(self, model: str, version: str = "") -> Forecaster:
        """The network that new sequences of this model use.

        Raises
        ------
        UnknownModel
        """
        if version not in ("", VERSION):
            raise triton_errors.unknown_model(model, version)
        slab = self.engine.residents.models.current.get(model)
        if slab is not None:
            return slab.forecaster
        if self._older_networks(model):
            raise triton_errors.model_unloaded(model)
        raise triton_errors.unknown_model(model)

    def running_forecaster(self, model: str, version: str = "") -> Forecaster:
        """The same, but for an unloaded model the network that its last sequences still use.

        Raises
        ------
        UnknownModel
        """
        try:
            return self.current_forecaster(model, version)
        except UnknownModel:
            used = [forecaster for forecaster, sessions in self._older_networks(model) if sessions]
            if version not in ("", VERSION) or not used:
                raise
            return used[-1]

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Input and output tensors of a model.

        Raises
        ------
        UnknownModel
        """
        forecaster = self.current_forecaster(model, version)
        outputs = _available_outputs(forecaster)
        return {
            "name": model,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_tensor(*port) for port in _shapes(forecaster.artifact.input_ports, forecaster)],
            "outputs": [_tensor(*output) for output in outputs],
        }

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        """Triton's ModelConfig of a model.

        Raises
        ------
        UnknownModel
        """
        forecaster = self.current_forecaster(model, version)
        outputs = _available_outputs(forecaster)
        idle_seconds = self.settings.ttl_seconds
        return {
            "name": model,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": 1,
            "input": [_config_entry(*port) for port in _shapes(forecaster.artifact.input_ports, forecaster)],
            "output": [_config_entry(*output) for output in outputs],
            "instance_group": [{"name": model, "kind": "KIND_CPU", "count": 1}],
            "sequence_batching": {
                "max_sequence_idle_microseconds": FOREVER if idle_seconds == inf else int(1e6 * idle_seconds),
                "oldest": {
                    "max_candidate_sequences": self.settings.max_sessions,
                    "max_queue_delay_microseconds": 0,
                },
                "control_input": [_control(control) for control in forecaster.artifact.controls],
                "state": [_state(state) for state in forecaster.artifact.states],
            },
            "parameters": {"fingerprint": {"string_value": forecaster.artifact.fingerprint}},
        }

    async def model_statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Statistics of one model, or of every model that is served, of all workers that can be reached.

        Raises
        ------
        UnknownModel
        """
        statistics = [await self._own_statistics(model, version)]
        if self._workers is not None:
            statistics += await self._workers.ask_reachable("statistics", model, version)
        by_name: dict[str, list[dict[str, Any]]] = {}
        for entry in (entry for answer in statistics for entry in answer["model_stats"]):
            by_name.setdefault(entry["name"], []).append(entry)
        return {"model_stats": [reduce(add_statistics, entries) for entries in by_name.values()]}

    async def _own_statistics(self, model: str, version: str) -> dict[str, Any]:
        """As `model_statistics`, of this worker.

        Raises
        ------
        UnknownModel
        """
        if model:
            self.current_forecaster(model, version)
        names = [model] if model else list(self.engine.residents.models.current)
        return {"model_stats": [self.statistics[name].as_dict(name, VERSION) for name in names]}

    def index(self, ready_only: bool = False) -> list[dict[str, Any]]:
        """Name, version and state of every model that is, or was, served."""
        current = self.engine.residents.models.current
        entries = [_index_entry(name, "READY") for name in current]
        known = {slab.forecaster.artifact.name for slab in self.engine.residents.models.slabs.values()}
        for name in sorted(known - set(current)) if not ready_only else ():
            sessions = sum(count for _, count in self._older_networks(name))
            entries.append(_index_entry(name, "UNLOADING" if sessions else "UNAVAILABLE", "unloaded"))
        return entries

    def count(self, model: str, timer: RequestTimer, failed: bool = False) -> None:
        """Count an answered request in the statistics of its model."""
        if model not in self.engine.residents.models.current:
            return  # a client's wrong name: without this check, each would add counters
        if failed:
            self.statistics[model].record_failure(timer)
        else:
            self.statistics[model].record_success(
                timer, self.engine.ticks, self.engine.last_pass_seconds(model)
            )

    async def load(self, caller: Caller, model: str, parameters: object = None) -> None:
        """Serve the artifact of this name as it is on disk now. Running sequences keep their network.

        Raises
        ------
        Forbidden
        Unsupported : the request contains a configuration or files
        Unprocessable : there is no such artifact, or it cannot be loaded
        """
        caller.require_role("admin")
        if parameters:
            raise triton_errors.unsupported("loading a model with a configuration or files in the request")
        async with self.library.turn:
            try:
                forecaster = await asyncio.to_thread(self.library.reload, model)
            except UnknownModel:
                text = f"failed to load '{model}', failed to poll from model repository"
                raise Unprocessable(text) from None
            except BadModel as error:
                raise Unprocessable(f"failed to load '{model}', {error.detail}") from None
            await caller.ask(Adopt(forecaster))

    async def unload(self, caller: Caller, model: str) -> None:
        """Start no new sequence on this model; running sequences go on. An unknown model is not an error.

        Raises
        ------
        Forbidden
        """
        caller.require_role("admin")
        try:
            await caller.ask(Retire(model))
        except UnknownModel:
            return

    def _older_networks(self, model: str) -> list[tuple[Forecaster, int]]:
        """Networks that had this name before, each with its number of sessions."""
        models = self.engine.residents.models
        newest = models.current.get(model)
        of_name = (slab for slab in models.slabs.values() if slab.forecaster.artifact.name == model)
        return [(slab.forecaster, len(slab)) for slab in of_name if slab is not newest]


def _available_outputs(forecaster: Forecaster) -> list[tuple[str, str, list[int]]]:
    """Name, type and shape of the network's outputs, and of those beside them."""
    steps = [-1] * (1 + forecaster.artifact.has_time_axis)
    extra = [output for output in OUTPUTS if output.is_available(forecaster)]
    return [
        *_shapes(forecaster.artifact.output_ports, forecaster),
        *((output.name, output.dtype, [*steps, output.width(forecaster)]) for output in extra),
    ]


def _shapes(ports: Sequence[Port], forecaster: Forecaster) -> list[tuple[str, str, list[int]]]:
    return [(port.name, port.dtype, tensor_shape(port, forecaster)) for port in ports]


def _tensor(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[dtype], "shape": shape}


def _config_entry(name: str, dtype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "data_type": f"TYPE_{DATATYPES[dtype]}", "dims": shape[1:]}


def _state(state: State) -> dict[str, Any]:
    kind, dims = f"TYPE_{DATATYPES[state.dtype]}", list(state.shape)
    entry: dict[str, Any] = {
        "input_name": state.tensor,
        "output_name": state.next_tensor,
        "data_type": kind,
        "dims": dims,
    }
    if not state.initial.any():
        entry["initial_state"] = [{"data_type": kind, "dims": dims, "zero_data": True, "name": state.tensor}]
    return entry


def _control(control: Control) -> dict[str, Any]:
    values = {
        "float32": ("fp32_false_true", float),
        "int32": ("int32_false_true", int),
        "bool": ("bool_false_true", bool),
    }
    entry: dict[str, Any] = {"kind": f"CONTROL_SEQUENCE_{control.kind.upper()}"}
    if control.dtype in values:
        field, convert = values[control.dtype]
        entry[field] = [convert(control.off), convert(control.on)]
    return {"name": control.tensor, "control": [entry]}


def _index_entry(name: str, state: str, reason: str = "") -> dict[str, Any]:
    entry = {"name": name, "version": VERSION, "state": state}
    return entry | {"reason": reason} if reason else entry
