"""The HTTP server: signals, draining, reload, limits of the process."""

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

GRACE_SECONDS = 30  # for what was accepted, once the server is told to stop


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens and spares the collector what will never be garbage.

    Parameters
    ----------
    drain_seconds : once told to stop, it serves on for this long, and says that it is not ready
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float = 0.0) -> None:
        super().__init__(config)
        self.drain_seconds = drain_seconds
        self._leaves_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain, or, told a second time, stop."""
        engine = self.config.app.state.engine  # type: ignore[union-attr]
        if not self.drain_seconds or engine.draining:
            super().handle_exit(sig, frame)
            return
        engine.draining = True
        self._leaves_at = time.monotonic() + self.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop; asked ten times a second."""
        self.should_exit |= time.monotonic() >= self._leaves_at
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; then spare the collector what was loaded."""
        await super().startup(sockets)
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError, RuntimeError):  # no SIGHUP, or no main thread
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.create_task(self._reload()))
        freeze_loaded_objects()
        print(f"Carryover listens on {self.address}. Try:\n\n  {self._example()}\n", flush=True)

    @property
    def address(self) -> str:
        """Where clients find it: the first socket's own port, so that port 0 can be asked for."""
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{host}:{port}"

    async def _reload(self) -> None:
        """Every artifact as it is on disk now (SIGHUP); one that cannot be loaded changes nothing."""
        state = self.config.app.state  # type: ignore[union-attr]
        state.authenticator.refresh()
        try:
            forecasters = await asyncio.to_thread(state.library.load)
            await asyncio.to_thread(state.library.archive, forecasters)
            for forecaster in forecasters:
                await state.engine.ask(Adopt(forecaster))
        except CarryoverError as error:
            log.error("reload refused: %s", error)

    def _example(self) -> str:
        forecaster = self.config.app.state.engine.residents.models.slab_for_model(None).forecaster  # type: ignore[union-attr]
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
    others = {fast_path.PREFIX: fast_path.route(app.state.catalog)}
    hot = HotProtocol.bind(app.state.authenticator, app.state.bulk_decoder, others)
    sockets = upgrade_factory(app.state.authenticator, app.state.limits)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=hot,
        ws=sockets,  # type: ignore[arg-type]
        access_log=False,  # the guard and the hot route write their own, which names no session
        log_level=settings.log_level,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        log_config=logs.configuration(settings.log_format, settings.log_level),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )
    return Server(config, settings.drain_seconds)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, and finish what was accepted. Returns the exit status.

    Raises
    ------
    ConfigError : as `create_app`
    """
    _raise_open_files()
    serving = server(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again once it has stopped; a stop that was asked for is a success.
        signal.signal(number, lambda *_: None)
    try:
        serving.run()
    except SystemExit:  # uvicorn could not listen, and has said why
        return 1
    return 0 if serving.started else 1


def _raise_open_files() -> None:
    """As many open files as this user may have: a connection is one, and the usual limit is 1,024."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
