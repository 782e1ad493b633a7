"""`carryover serve --workers N`: reserves the ports, and runs the workers.

This process imports neither the networks nor the service, so that it starts at once and stays small.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
from pathlib import Path

from app.config import Settings
from app.errors import ConfigError
from app.workers.place import Place
from app.workers.sockets import bind
from app.workers.store_files import claim
from app.workers.supervisor import Supervisor


def run_workers(settings: Settings, *, accept_loss: bool = False) -> int:
    """Run as many processes as there are workers, until SIGTERM or SIGINT. Returns the exit status.

    Parameters
    ----------
    accept_loss : start though commits are missing from the store's files

    Raises
    ------
    ConfigError : the port is in use, or the store is divided among another number of workers
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigError("several workers need a system whose processes can share a port: Linux or macOS")
    if settings.store_path is not None:
        claim(settings.store_path, settings.workers)
    with tempfile.TemporaryDirectory(prefix="carryover-") as folder, contextlib.ExitStack() as reserved:
        ports = {"port": settings.port}
        if settings.grpc_port is not None:
            ports["grpc_port"] = settings.grpc_port
        for name, port in ports.items():
            for probe in bind(settings.host, port, shared=False):
                probe.close()  # nobody else listens there
            sockets = bind(settings.host, port, shared=True)
            for reservation in sockets:  # bound, and not listening: the workers listen
                reserved.enter_context(reservation)
            ports[name] = sockets[0].getsockname()[1]
        resident = max(-(-settings.resident_sessions // settings.workers), settings.batch_sessions)
        parts = {
            "resident_sessions": resident,
            "history_bytes": settings.history_bytes // settings.workers,
        }
        settings = settings.model_copy(update=ports | parts)
        places = [Place(index, settings.workers, Path(folder)) for index in range(settings.workers)]
        first, later = (
            [
                json.dumps(
                    {
                        "settings": settings.model_dump(mode="json"),
                        "index": place.index,
                        "folder": folder,
                        "accept_loss": is_accepted,
                    }
                )
                for place in places
            ]
            for is_accepted in (accept_loss, False)  # a loss is accepted at this start, and not after a crash
        )
        root = str(Path(__file__).resolve().parent.parent.parent)
        program = (
            f"import sys; sys.path.insert(0, {root!r}); from app.cli import serve_as_worker as run; run()"
        )
        return Supervisor([sys.executable, "-c", program], first, later, places[0].socket).run()
