"""The HTTP server: signals, draining, reloading of models, limits of the process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import time
from types import FrameType

import orjson
import uvicorn

from app.config import Settings
from app.errors import CarryoverError
from app.jobs.jobs import Adopt
from app.main import create_app, log
from app.observability import logs
from app.open_inference import fast_path
from app.process_tuning import freeze_loaded_objects
from app.protocols.http import HotProtocol
from app.protocols.upgrade import upgrade_factory

JOBS_SHARE = 0.6  # of the time to stop, for jobs of accepted requests; what is unfinished then is refused
REQUESTS_SHARE = 0.7  # of the time to stop, until requests without an answer are cancelled
MAX_EXAMPLE_NUMBERS = 16  # in an observation of the example that is printed at the start
FILES_BESIDE_CONNECTIONS = 128  # of the store, the models and Python itself


class Server(uvicorn.Server):
    """uvicorn's server, with draining, a start-up banner and reloading of models.

    Parameters
    ----------
    drain_seconds : after the first stop signal, serve for so long while readiness fails
    published_port : the port that clients use, if it differs from the one listened on
    """

    def __init__(
        self, config: uvicorn.Config, drain_seconds: float = 0.0, published_port: int | None = None
    ) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self.published_port = published_port
        self.ends_process = False  # whether to end the process if it does not stop in time
        self._stops_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first stop signal, and stop at the second."""
        engine = self.config.app.state.engine  # type: ignore[union-attr]
        if not self.drain_seconds or engine.draining:
            super().handle_exit(sig, frame)
            return
        engine.draining = True
        self._stops_at = time.monotonic() + self.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; called ten times a second."""
        self.should_exit |= time.monotonic() >= self._stops_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer accepted requests and stop, within the time that the settings allow."""
        state = self.config.app.state  # type: ignore[union-attr]
        state.stop_deadline.start()
        if self.ends_process:
            state.stop_deadline.end_process_when_missed()
        state.engine.refuse_unfinished_after(JOBS_SHARE * state.stop_deadline.seconds)
        if state.grpc is not None:
            state.grpc.start_closing(REQUESTS_SHARE * state.stop_deadline.seconds)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and then exclude everything that was loaded from garbage collection."""
        await super().startup(sockets)
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError, RuntimeError):  # no SIGHUP, or not the main thread
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
        freeze_loaded_objects()
        print(f"Carryover listens on {self.address}. Try:\n\n  {self._example()}\n", flush=True)

    @property
    def address(self) -> str:
        """URL at the published port, or at the port of the first socket: the setting may be 0."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"{'https' if self.config.is_ssl else 'http'}://{host}:{self.published_port or port}"

    async def _reload(self) -> None:
        """Load every artifact as it is on disk now (SIGHUP). If one cannot be loaded, nothing changes."""
        state = self.config.app.state  # type: ignore[union-attr]
        state.authenticator.refresh()
        try:
            forecasters = await asyncio.to_thread(state.library.load)
            await asyncio.to_thread(state.library.archive, forecasters)
            for forecaster in forecasters:
                await state.engine.ask(Adopt(forecaster))
        except CarryoverError as error:
            log.error("models were not reloaded: %s", error)

    def _example(self) -> str:
        forecaster = self.config.app.state.engine.residents.models.slab_for_model(None).forecaster  # type: ignore[union-attr]
        if forecaster.input_size > MAX_EXAMPLE_NUMBERS:
            return f"curl {self.address}/models/{forecaster.artifact.name}"
        rows = [[float(f"{number:.3g}") for number in row] for row in forecaster.example()]
        body = orjson.dumps({"observations": rows}).decode()
        return f"curl {self.address}/sessions/demo/observations -d '{body}'"


def create_server(settings: Settings, *, accept_loss: bool = False) -> Server:
    """The HTTP server of the service, ready to run.

    Parameters
    ----------
    accept_loss : start though commits are missing from the store's file

    Raises
    ------
    ConfigError : as `create_app`
    """
    app = create_app(settings, accept_loss=accept_loss)
    other_routes = {fast_path.PREFIX: fast_path.route(app.state.catalog)}
    hot = HotProtocol.bind(app.state.authenticator, app.state.bulk_decoder, other_routes)
    sockets = upgrade_factory(app.state.authenticator, app.state.limits)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=hot,
        ws=sockets,  # type: ignore[arg-type]
        access_log=False,  # uvicorn's would contain session ids; the guard and the hot route log without them
        log_level=settings.log_level,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=max(1, round(REQUESTS_SHARE * settings.stop_seconds)),
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        log_config=logs.configuration(settings.log_format, settings.log_level),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return Server(config, settings.drain_seconds, settings.published_port)


def run(settings: Settings, *, accept_loss: bool = False) -> int:
    """Serve until SIGTERM or SIGINT, and answer accepted requests. Returns the exit status.

    Parameters
    ----------
    accept_loss : start though commits are missing from the store's file

    Raises
    ------
    ConfigError : as `create_app`
    """
    settings = fit_connections(settings, _raise_open_files())
    serving = create_server(settings, accept_loss=accept_loss)
    serving.ends_process = True
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again after it has stopped; a requested stop is a success.
        signal.signal(number, lambda *_: None)
    try:
        serving.run()
    except SystemExit:  # uvicorn could not listen, and has logged why
        return 1
    return 0 if serving.started else 1


def fit_connections(settings: Settings, open_files: int | None) -> Settings:
    """Settings with no more connections than the process may have open files; None: no limit is known."""
    if open_files is None or settings.connections <= open_files - FILES_BESIDE_CONNECTIONS:
        return settings
    connections = max(1, open_files - FILES_BESIDE_CONNECTIONS)
    log.warning(
        "CARRYOVER_CONNECTIONS is %d, but the process may have only %d open files (ulimit -n): "
        "at most %d connections are accepted. Raise the limit, or lower CARRYOVER_CONNECTIONS",
        settings.connections,
        open_files,
        connections,
    )
    return settings.model_copy(update={"connections": connections})


def _raise_open_files() -> int | None:
    """Allow as many open files as possible, and return their number: the usual limit is 1,024."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
        return None if hard_limit == resource.RLIM_INFINITY else hard_limit
    return None
