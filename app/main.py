"""Construction of the service: the only place that creates the parts and connects them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from app.access.callers import Authenticator
from app.access.keys import KeyRing
from app.alerts.alerts_file import read_alerts_file
from app.alerts.hub import AlertHub
from app.alerts.webhooks import Webhooks
from app.api import errors
from app.api.document import LICENSE, SERVERS, TAGS, OpenApiDocument
from app.api.middleware.body_limit import BodyLimit
from app.api.middleware.guard import Guard
from app.api.middleware.head import HeadRequests
from app.api.prometheus import PrometheusExporter
from app.api.routes import bulk, dashboard, documents, events, health, metrics, models, openai, sessions, text
from app.codec.bulk import BulkDecoder, BulkLimits, preload
from app.codec.limits import Limits
from app.config import Settings
from app.dashboard import load_assets
from app.engine.engine import Engine
from app.errors import CarryoverError, ConfigError
from app.model_library import ModelLibrary
from app.observability.tracing import create_tracing
from app.open_inference import routes as protocol
from app.open_inference.catalog import Catalog
from app.open_inference.grpc_factory import create_grpc_server
from app.process_tuning import keep_freed_memory
from app.shutdown import StopDeadline
from app.stores.factory import open_store
from app.workers.place import Place
from app.workers.store_files import worker_path
from app.workers.workers import Workers
from models.installation import installed_version

log = logging.getLogger("carryover")

GRPC_SHARE = 0.5  # of the remaining time to stop, for accepted gRPC calls
WORKERS_SHARE = 0.5  # of the remaining time to stop, for jobs of the other workers
WEBHOOKS_SHARE = 0.5  # of the remaining time to stop, for alerts that wait
ENGINE_SHARE = 0.8  # of the remaining time to stop, for accepted jobs; the rest closes the store
KEYS_SECONDS = 1.0  # between two checks for a change of the keys' file


def create_app(settings: Settings, *, place: Place | None = None, accept_loss: bool = False) -> FastAPI:
    """The service, its models loaded; the engine runs for the length of the app's lifespan.

    Parameters
    ----------
    place : of this process among the workers of the server; None if there is one process
    accept_loss : start though commits are missing from the store's file

    Raises
    ------
    ConfigError : a model cannot be loaded, the default is none of them, or the keys cannot be read
    """
    # More threads make the small matrix products of a batch several times slower.
    threadpool_limits(1, user_api="blas")
    keep_freed_memory()
    library = ModelLibrary(settings)
    forecasters = library.load()
    store_path = _store_path(settings, place)
    store = open_store(settings, path=store_path, accept_loss=accept_loss)
    library.archive(forecasters)
    settings = settings.model_copy(update={"default_model": library.default_name(forecasters)})
    engine = Engine(forecasters, store, settings, older=library.load_archived(forecasters))

    key_ring = KeyRing(settings.api_keys_file) if settings.api_keys_file is not None else None
    version = installed_version()
    engine.tracing = create_tracing(settings.traces, version)
    authenticator = Authenticator(engine, settings, key_ring)

    workers = None if place is None else Workers(place, engine, authenticator, library)
    engine.peers = workers

    alerts_file = read_alerts_file(settings.alerts_file)
    try:
        engine.set_alerts(alerts_file.alerts())
    except CarryoverError as error:
        raise ConfigError(f"alerts file {settings.alerts_file}: {error}") from error
    webhooks = Webhooks(alerts_file, engine.metrics)
    alerts = AlertHub(webhooks, engine.metrics)
    engine.publish_alerts = alerts.publish
    if workers is not None:
        alerts.forward, workers.receive_alerts = workers.send_alerts, alerts.receive

    catalog = Catalog(engine, library, settings, version, workers)
    inputs = max(forecaster.input_size for forecaster in forecasters)
    limits = Limits(settings.chunk_observations, settings.forecast_steps, inputs)
    grpc = create_grpc_server(settings, catalog, authenticator, limits)
    deadline = StopDeadline(settings.stop_seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if key_ring is not None:
            await engine.residents.count_sessions()
        engine.start()
        if workers is not None:
            await workers.start()
        watching = asyncio.create_task(_watch_keys(authenticator), name="keys")
        if grpc is not None:
            await grpc.open()
        yield
        deadline.start()
        if grpc is not None:
            await grpc.close(GRPC_SHARE * deadline.remaining_seconds())
        watching.cancel()
        await _stop_engine(engine, deadline, workers)
        await webhooks.close(WEBHOOKS_SHARE * deadline.remaining_seconds())
        if engine.tracing is not None:
            await asyncio.to_thread(engine.tracing.close)

    app = FastAPI(
        title="Carryover",
        version=version,
        summary="Stateful recurrent models over streams: sessions keep their state until they are reset.",
        lifespan=lifespan,
        license_info=LICENSE,
        openapi_tags=TAGS,
        servers=SERVERS,
        openapi_url=None,  # FastAPI's route makes it in the event loop; ours is in api/routes/documents.py
        docs_url=None,  # FastAPI's page loads scripts from another host; ours is in api/routes/dashboard.py
        redoc_url=None,
    )
    app.openapi = OpenApiDocument(app, authenticator)  # type: ignore[method-assign]
    app.state.engine = engine
    app.state.workers = workers
    app.state.stop_deadline = deadline
    app.state.authenticator = authenticator
    app.state.exporter = PrometheusExporter(engine, authenticator, version, store_path, workers)
    app.state.alerts, app.state.webhooks = alerts, webhooks
    app.state.library = library
    app.state.dashboard = load_assets()
    app.state.catalog = catalog
    app.state.limits = limits
    app.state.grpc = grpc
    preload()
    app.state.bulk_decoder = BulkDecoder(BulkLimits(settings.bulk_sessions, limits))
    errors.add_exception_handlers(app)
    app.add_middleware(HeadRequests)
    app.add_middleware(BodyLimit, max_bytes=settings.body_bytes)
    app.add_middleware(
        Guard,
        authenticator=authenticator,
        metrics=engine.metrics,
        allowed_origins=settings.allowed_origins or (),
        allowed_hosts=settings.accepted_host_names,
        log_requests=settings.access_log,
    )
    for module in (
        sessions, text, openai, bulk, events, models, health, metrics, dashboard, documents, protocol,
    ):  # fmt: skip
        app.router.routes.extend(module.router.routes)  # include_router would copy each route
    return app


def _store_path(settings: Settings, place: Place | None) -> Path | None:
    """The file of the store, if it is on disk."""
    path = settings.store_path
    return path if path is None or place is None else worker_path(path, place.index, place.count)


async def _stop_engine(engine: Engine, deadline: StopDeadline, workers: Workers | None) -> None:
    if workers is not None:
        await workers.finish(WORKERS_SHARE * deadline.remaining_seconds())
    stopping = asyncio.create_task(engine.stop(ENGINE_SHARE * deadline.remaining_seconds()), name="stop")
    await asyncio.wait({stopping}, timeout=deadline.remaining_seconds())
    if not stopping.done():
        log.error("the engine did not stop within %g seconds; its open jobs are lost", deadline.seconds)
        return
    stopping.result()
    if workers is not None:
        workers.stop()


async def _watch_keys(authenticator: Authenticator) -> None:
    while True:
        await asyncio.sleep(KEYS_SECONDS)
        authenticator.refresh()
