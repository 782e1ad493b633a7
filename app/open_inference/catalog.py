"""What is served, as the protocol tells it: metadata, configuration, statistics, the repository."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from app.access.callers import Caller
from app.config import Settings
from app.engine.engine import Engine
from app.errors import BadModel, Unavailable, UnknownModel, Unprocessable
from app.jobs.jobs import Adopt, Retire
from app.model_library import Library
from app.open_inference import triton_errors
from app.open_inference.inference import OBSERVATIONS, OUTPUTS, VERSION
from app.open_inference.statistics import Statistics, Watch
from models.forecaster import Forecaster

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
    library : where a model that is loaded comes from
    version : of the server
    """

    def __init__(self, engine: Engine, library: Library, settings: Settings, version: str) -> None:
        self.engine = engine
        self.library = library
        self.settings = settings
        self.version = version
        self.statistics: defaultdict[str, Statistics] = defaultdict(Statistics)

    def server(self) -> dict[str, Any]:
        """Name, version, and the parts of the protocol that are there."""
        return {"name": "carryover", "version": self.version, "extensions": list(EXTENSIONS)}

    def check_ready(self) -> None:
        """Nothing, where requests may be sent.

        Raises
        ------
        Unavailable : they may not
        """
        if why := self.engine.unready():
            raise Unavailable(f"not ready: {', '.join(why)}")

    def served(self, model: str, version: str = "") -> Forecaster:
        """The network that new sequences of this model get.

        Raises
        ------
        UnknownModel
        """
        if version not in ("", VERSION):
            raise triton_errors.no_model(model, version)
        slab = self.engine.sessions.current.get(model)
        if slab is not None:
            return slab.forecaster
        raise triton_errors.retired(model) if self._older(model) else triton_errors.no_model(model)

    def spoken(self, model: str, version: str = "") -> Forecaster:
        """The same; of a model that was unloaded, the network that its last sequences still run on.

        Raises
        ------
        UnknownModel
        """
        try:
            return self.served(model, version)
        except UnknownModel:
            running = [one for one in self._older(model) if one[1]]
            if version not in ("", VERSION) or not running:
                raise
            return running[-1][0]

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Its tensors.

        Raises
        ------
        UnknownModel
        """
        forecaster = self.served(model, version)
        outputs = [(one.name, one.width(forecaster)) for one in OUTPUTS if one.has(forecaster)]
        return {
            "name": model,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [_tensor(OBSERVATIONS, forecaster.input_size)],
            "outputs": [_tensor(name, width) for name, width in outputs],
        }

    def config(self, model: str, version: str = "") -> dict[str, Any]:
        """Its ModelConfig.

        Raises
        ------
        UnknownModel
        """
        forecaster = self.served(model, version)
        outputs = [(one.name, one.width(forecaster)) for one in OUTPUTS if one.has(forecaster)]
        idle, settings = self.settings.ttl_seconds, self.settings
        return {
            "name": model,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": 1,
            "input": [_configured(OBSERVATIONS, forecaster.input_size)],
            "output": [_configured(name, width) for name, width in outputs],
            "instance_group": [{"name": model, "kind": "KIND_CPU", "count": 1}],
            "sequence_batching": {
                "max_sequence_idle_microseconds": FOREVER if idle == float("inf") else int(1e6 * idle),
                "oldest": {
                    "max_candidate_sequences": settings.max_sessions,
                    "max_queue_delay_microseconds": 0,
                },
            },
            "parameters": {"fingerprint": {"string_value": forecaster.artifact.fingerprint}},
        }

    def told_statistics(self, model: str = "", version: str = "") -> dict[str, Any]:
        """Of one model, or of each.

        Raises
        ------
        UnknownModel
        """
        if model:
            self.served(model, version)
        names = [model] if model else list(self.engine.sessions.current)
        return {"model_stats": [self.statistics[name].told(name, VERSION) for name in names]}

    def index(self, ready_only: bool = False) -> list[dict[str, Any]]:
        """Every model that is, or was, served."""
        current = self.engine.sessions.current
        told = [_listed(name, "READY") for name in current]
        gone = {slab.forecaster.artifact.name for slab in self.engine.sessions.slabs.values()} - set(current)
        for name in sorted(gone) if not ready_only else ():
            running = sum(count for _, count in self._older(name))
            told.append(_listed(name, "UNLOADING" if running else "UNAVAILABLE", "unloaded"))
        return told

    def count(self, model: str, watch: Watch, failed: bool = False) -> None:
        """Tell the statistics of a request that has been answered."""
        if model not in self.engine.sessions.current:
            return  # a name that a client made up: it gets no counters
        if failed:
            self.statistics[model].failed(watch)
        else:
            self.statistics[model].succeeded(watch, self.engine.ticks, self.engine.last_pass(model))

    async def load(self, caller: Caller, model: str, parameters: Any = None) -> None:
        """Serve the artifact of this name as it is on disk now. Sequences under way keep what they have.

        Raises
        ------
        Forbidden
        Unsupported : it brings a configuration or files of its own
        Unprocessable : there is no such artifact, or it cannot be loaded
        """
        caller.may("admin")
        if parameters:
            raise triton_errors.unsupported("loading a model with a configuration or files in the request")
        try:
            forecaster = await asyncio.to_thread(self.library.reload, model)
        except UnknownModel:
            told = f"failed to load '{model}', failed to poll from model repository"
            raise Unprocessable(told) from None
        except BadModel as error:
            raise Unprocessable(f"failed to load '{model}', {error.detail}") from None
        await caller.ask(Adopt(forecaster))

    async def unload(self, caller: Caller, model: str) -> None:
        """Give no new sequence this model; those under way go on until they end. Not to be there is no error.

        Raises
        ------
        Forbidden
        """
        caller.may("admin")
        try:
            await caller.ask(Retire(model))
        except UnknownModel:
            return

    def _older(self, model: str) -> list[tuple[Forecaster, int]]:
        """Networks that had this name before, each with the sessions that run on it."""
        sessions = self.engine.sessions
        newest = sessions.current.get(model)
        of_name = (slab for slab in sessions.slabs.values() if slab.forecaster.artifact.name == model)
        return [(slab.forecaster, len(slab)) for slab in of_name if slab is not newest]


def _tensor(name: str, width: int) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [-1, -1, width]}


def _configured(name: str, width: int) -> dict[str, Any]:
    return {"name": name, "data_type": "TYPE_FP32", "dims": [-1, width]}


def _listed(name: str, state: str, reason: str = "") -> dict[str, Any]:
    told = {"name": name, "version": VERSION, "state": state}
    return told | {"reason": reason} if reason else told
