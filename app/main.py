"""Wiring: the only place that constructs the parts and puts them together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

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


def server(settings: Settings) -> uvicorn.Server:
    """The HTTP server of the service, ready to run.

    Raises
    ------
    ConfigError : as `create_app`
    """
    app = create_app(settings)
    hot = HotProtocol.bound(app.state.engine, app.state.limits, settings.body_bytes)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=hot if settings.hot_route else "httptools",
        ws=upgrades(  # type: ignore[arg-type]
            app.state.engine, app.state.limits, settings.socket_messages, settings.body_bytes
        ),
        access_log=settings.access_log,
        log_level=settings.log_level,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
    )
    return uvicorn.Server(config)


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
