"""The HTTP server: signals, draining, reloading of models, limits of the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from app.config import Settings
from app.errors import CarryoverError
from app.jobs.jobs import Adopt, submit_and_wait
from app.main import create_app, log
from app.observability import logs
from app.open_inference import fast_path
from app.process_tuning import freeze_loaded_objects, take_reload_signal
from app.protocols.http import HotProtocol
from app.protocols.upgrade import upgrade_factory
from app.start_report import describe_lost_default, describe_start, example_command
from app.workers.moving import ConnectionMover
from app.workers.place import Place
from app.workers.sockets import bind
from app.workers.store_files import claim

JOBS_SHARE = 0.6  # of the time to stop, for jobs of accepted requests; what is unfinished then is refused
REQUESTS_SHARE = 0.7  # of the time to stop, until requests without an answer are cancelled
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
        self.mover: ConnectionMover | None = None  # between workers
        self._accepting: set[asyncio.Task[Any]] = set()  # connections of other workers
        self.announces = True  # whether to print the address
        self.parent: int | None = None  # a file that ends when the parent process does; then the server stops
        self._stops_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first stop signal, and stop at the second."""
        state = self.config.app.state  # type: ignore[union-attr]
        engine = state.engine
        if state.workers is not None:
            state.workers.is_stopping = True
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
        state.alerts.close()
        state.engine.refuse_unfinished_after(JOBS_SHARE * state.stop_deadline.seconds)
        if self.mover is not None:
            self.mover.stop()
            if self._accepting:
                await asyncio.wait(self._accepting)  # so that they are shut down with the others
        if state.grpc is not None:
            state.grpc.start_closing(REQUESTS_SHARE * state.stop_deadline.seconds)
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and then exclude everything that was loaded from garbage collection."""
        await super().startup(sockets)
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        # Windows has no SIGHUP; elsewhere this may not be the main thread.
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError):
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
            take_reload_signal()
        if self.mover is not None:
            self.mover.start(self.accept)
        if self.parent is not None:
            loop.add_reader(self.parent, self._hear_parent, self.parent)
        freeze_loaded_objects()
        if self.announces:
            app: FastAPI = self.config.app  # type: ignore[assignment]
            for sentence in describe_start(app):
                log.info(sentence)
            print(
                f"Carryover listens on {self.address}. Try:\n\n  {example_command(app, self.address)}\n",
                flush=True,
            )

    def accept(self, connection: socket.socket, data: bytes, moves: int) -> None:
        """Take a connection from another worker.

        Parameters
        ----------
        data : what has come in on it
        moves : how often it has moved between workers
        """
        protocol: HotProtocol = self.config.http_protocol_class(  # type: ignore[call-arg, assignment]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        protocol.first_data, protocol.moves = data, moves
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = loop.create_task(loop.connect_accepted_socket(lambda: protocol, connection))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def _hear_parent(self, file: int) -> None:
        if not os.read(file, 1):
            asyncio.get_running_loop().remove_reader(file)
            self.handle_exit(signal.SIGTERM, None)

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
        changed = False
        try:
            async with state.library.turn:
                forecasters = await asyncio.to_thread(state.library.load)
                await asyncio.to_thread(state.library.archive, forecasters)
                for forecaster in forecasters:
                    # The supervisor tells every worker to reload.
                    changed |= await submit_and_wait(state.engine.submit_here, Adopt(forecaster))
        except CarryoverError as error:
            log.error("models were not reloaded: %s", error)
            return
        except Exception:  # noqa: BLE001  (nobody waits for this task: nobody else would say it)
            log.exception("models were not reloaded")
            return
        if not changed:
            log.info("models were read again: no model has changed")
        if warning := describe_lost_default(self.config.app):  # type: ignore[arg-type]
            log.warning(warning)


def create_server(settings: Settings, *, place: Place | None = None, accept_loss: bool = False) -> Server:
    """The HTTP server of the service, ready to run.

    Parameters
    ----------
    place : of this process among the workers of the server; None if there is one process
    accept_loss : start though commits are missing from the store's file

    Raises
    ------
    ConfigError : as `create_app`
    """
    app = create_app(settings, place=place, accept_loss=accept_loss)
    other_routes = {fast_path.PREFIX: fast_path.route(app.state.catalog)}
    mover = None if place is None else ConnectionMover(place)
    hot = HotProtocol.bind(app.state.authenticator, app.state.bulk_decoder, other_routes, mover)
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
    serving = Server(config, settings.drain_seconds, settings.published_port)
    serving.mover = mover
    return serving


def run(settings: Settings, *, accept_loss: bool = False) -> int:
    """Serve in this process until SIGTERM or SIGINT, and answer accepted requests. Returns the exit status.

    Parameters
    ----------
    accept_loss : start though commits are missing from the store's file

    Raises
    ------
    ConfigError : as `create_app`
    """
    if settings.store_path is not None:
        claim(settings.store_path, 1)
    return _run_server(create_server(_fitted(settings), accept_loss=accept_loss))


def run_worker() -> int:
    """Serve as one of several workers, as the supervisor says on the standard input. Returns the exit status.

    Raises
    ------
    ConfigError : as `create_app`
    """
    given = json.loads(sys.stdin.readline())
    settings = Settings(**given["settings"])
    place = Place(given["index"], settings.workers, Path(given["folder"]))
    serving = create_server(_fitted(settings), place=place, accept_loss=given["accept_loss"])
    serving.announces = place.index == 0
    serving.parent = sys.stdin.fileno()
    return _run_server(serving, bind(settings.host, settings.port, shared=True))


def _run_server(serving: Server, sockets: list[socket.socket] | None = None) -> int:
    serving.ends_process = True
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again after it has stopped; a requested stop is a success.
        signal.signal(number, lambda *_: None)
    try:
        serving.run(sockets)
    except SystemExit:  # uvicorn has logged why
        if not serving.lifespan.startup_failed:  # it could not listen
            log.error("stop the server that uses the address, or choose another port: CARRYOVER_PORT")
        return 1
    return 0 if serving.started else 1


def _fitted(settings: Settings) -> Settings:
    return fit_connections(settings, _raise_open_files())


def fit_connections(settings: Settings, open_files: int | None) -> Settings:
    """Settings with no more connections than the process may have open files; None: no limit is known."""
    if open_files is None or settings.connections <= open_files - FILES_BESIDE_CONNECTIONS:
        return settings
    connections = max(1, open_files - FILES_BESIDE_CONNECTIONS)
    if "connections" in settings.model_fields_set:
        log.warning(
            "CARRYOVER_CONNECTIONS is %d, but the process may have only %d open files (ulimit -n): "
            "at most %d connections are accepted. Raise the limit, or lower CARRYOVER_CONNECTIONS",
            settings.connections,
            open_files,
            connections,
        )
    else:
        log.info("at most %d connections, for the process may have %d open files", connections, open_files)
    return settings.model_copy(update={"connections": connections})


def _raise_open_files() -> int | None:
    """Allow as many open files as possible, and return their number: the usual limit is 1,024."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
        return None if hard_limit == resource.RLIM_INFINITY else hard_limit
    return None
