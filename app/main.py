"""Wiring: the only place that constructs the parts and puts them together."""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import torch
import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from app.api import health, models, problems, sessions
from app.api.body import BodyLimit
from app.config import Settings
from app.engine import Engine
from app.errors import ConfigError
from app.hot import HotProtocol
from app.sockets import upgrades
from app.stores import Store
from app.stores.memory import MemoryStore
from app.wire import Limits
from models.artifact import load
from models.errors import BadArtifact
from models.forecaster import Forecaster

GRACE_SECONDS = 30  # for what was accepted, once the server is told to stop


def create_app(settings: Settings) -> FastAPI:
    """The service, its models loaded; the engine runs for the length of the app's lifespan.

    Raises
    ------
    ConfigError : a model cannot be loaded, or the default is none of them
    """
    forecasters = load_models(settings)
    engine = Engine(forecasters, open_store(settings), settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await engine.stop()

    app = FastAPI(
        title="Carryover",
        version=_version(),
        summary="Stateful recurrent models over streams: nothing is forgotten until you say reset.",
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.state.limits = Limits(
        settings.chunk_observations, settings.forecast_steps, max(one.input_size for one in forecasters)
    )
    problems.install(app)
    app.add_middleware(BodyLimit, most=settings.body_bytes)
    for module in (sessions, models, health):
        app.include_router(module.router)
    return app


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens and spares the collector what will never be garbage."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; then freeze what was loaded, because walking it at each collection is most of p99."""
        await super().startup(sockets)
        if self.should_exit:
            return
        gc.collect()
        gc.freeze()
        print(f"Carryover listens on {self.address}. Try:\n\n  {self._example()}\n", flush=True)

    @property
    def address(self) -> str:
        """Where clients find it: the first socket's own port, so that port 0 can be asked for."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{host}:{port}"

    def _example(self) -> str:
        forecaster = self.config.app.state.engine.sessions.slab_of(None).forecaster  # type: ignore[union-attr]
        scaling = forecaster.artifact.scaling
        rows = [[float(f"{number:.3g}") for number in scaling.mean + part * scaling.std] for part in (0, 0.1)]
        body = orjson.dumps({"observations": rows}).decode()
        return f"curl {self.address}/sessions/demo/observations -d '{body}'"


def server(settings: Settings) -> Server:
    """The HTTP server of the service, ready to run.

    Raises
    ------
    ConfigError : as `create_app`
    """
    app = create_app(settings)
    hot = HotProtocol.bound(app.state.engine, app.state.limits, settings.body_bytes)
    sockets = upgrades(app.state.engine, app.state.limits, settings.socket_messages, settings.body_bytes)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=hot if settings.hot_route else "httptools",
        ws=sockets,  # type: ignore[arg-type]
        access_log=settings.access_log,
        log_level=settings.log_level,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    return Server(config)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, and finish what was accepted. Returns the exit status.

    Raises
    ------
    ConfigError : as `create_app`
    """
    serving = server(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; a stop that was asked for is a success.
        signal.signal(number, lambda *_: None)
    try:
        serving.run()
    except SystemExit:  # uvicorn could not listen, and has said why
        return 1
    return 0 if serving.started else 1


def load_models(settings: Settings) -> list[Forecaster]:
    """Every artifact that the settings name, by name; a folder without a `model.json` is one of artifacts.

    Raises
    ------
    ConfigError
    """
    # Two threads on the small products of a wave cost several times what they bring.
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    loaded: dict[str, Forecaster] = {}
    for folder in artifact_folders(settings.models):
        try:
            artifact = load(folder)
        except BadArtifact as error:
            raise ConfigError(f"model {folder} cannot be loaded: {error}") from error
        if artifact.name in loaded:
            raise ConfigError(f"two models are named {artifact.name!r}; the second is {folder}")
        loaded[artifact.name] = Forecaster(artifact, settings.device)
    if not loaded:
        raise ConfigError(f"there is no model in {', '.join(map(str, settings.models))}")
    if settings.default_model is not None and settings.default_model not in loaded:
        raise ConfigError(
            f"the default model {settings.default_model!r} is none of {', '.join(sorted(loaded))}"
        )
    return [loaded[name] for name in sorted(loaded)]


def artifact_folders(paths: Sequence[Path]) -> list[Path]:
    """The artifacts at these paths, or in them."""
    found: list[Path] = []
    for path in paths:
        if (path / "model.json").exists():
            found.append(path)
        elif path.is_dir():
            found += sorted(child.parent for child in path.glob("*/model.json"))
        else:
            raise ConfigError(f"there is no folder {path}")
    return found


def open_store(settings: Settings) -> Store:
    """The store that the settings name."""
    return MemoryStore(settings.tombstones, settings.tombstone_ttl_seconds or float("inf"))


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("carryover")
    except PackageNotFoundError:
        return "0+unknown"
