"""Runs the import of a graph in a child process with limits on memory and time.

A graph from a stranger may take all the memory there is, never end, or crash the runtime. The child says in
a file what is wrong with the graph; what it cannot say is read from how it ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from models.errors import BadArtifact

ROOT = Path(__file__).resolve().parents[3]
# The root goes in as an argument: in an installed program it is a folder of the package.
PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from models.artifact.graphs.child import main
main(sys.argv[2])
"""
ERROR_FILE = "error.txt"
REFUSED = 3
GIB = 2**30
COPIES = 10


@dataclass(frozen=True)
class Limits:
    """Of the child.

    Attributes
    ----------
    memory_bytes
        Address space.
    cpu_seconds, wall_seconds
        Time that it may compute, and that may pass.
    """

    memory_bytes: int = 4 * GIB
    cpu_seconds: int = 120
    wall_seconds: float = 300

    @classmethod
    def for_graph(cls, size: int) -> Limits:
        """For a file of so many bytes: reading, rewriting and running it hold several copies."""
        return cls(memory_bytes=cls.memory_bytes + COPIES * size)

    def apply(self) -> None:
        """Limit this process; where the system does not know a limit, the others still hold."""
        if sys.platform == "win32":
            return  # `wall_seconds` holds: the parent waits no longer
        import resource

        _limit(resource.RLIMIT_AS, self.memory_bytes, self.memory_bytes)
        # At the first limit SIGXCPU says why the process ends, at the second SIGKILL ends it.
        _limit(resource.RLIMIT_CPU, self.cpu_seconds, self.cpu_seconds + 5)
        _limit(resource.RLIMIT_FSIZE, 2 * GIB, 2 * GIB)
        _limit(resource.RLIMIT_CORE, 0, 0)


def run_child(folder: Path, limits: Limits) -> None:
    """Let `child.main` work on the folder.

    Raises
    ------
    BadArtifact
        What it found wrong, or the limit that it met.
    """
    command = [sys.executable, "-I", "-c", PROGRAM, str(ROOT), str(folder)]
    environment = {
        key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "TMPDIR", "LANG")
    }
    environment["OMP_NUM_THREADS"] = environment["OPENBLAS_NUM_THREADS"] = "1"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, timeout=limits.wall_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BadArtifact(f"the graph was not proved within {limits.wall_seconds:g} seconds") from error
    if done.returncode == 0:
        return
    message = folder / ERROR_FILE
    if done.returncode == REFUSED and message.exists():
        raise BadArtifact(message.read_text(encoding="utf-8"))
    raise BadArtifact(_ended(done.returncode, done.stderr.decode(errors="replace"), limits))


def _ended(code: int, stderr: str, limits: Limits) -> str:
    if sys.platform != "win32" and code == -signal.SIGXCPU:
        return f"the graph was not proved within {limits.cpu_seconds} seconds of computing"
    if "MemoryError" in stderr or "bad_alloc" in stderr:
        return f"the graph needs more than {limits.memory_bytes / GIB:g} GiB of memory"
    if code < 0:
        return f"onnxruntime did not survive the graph: the process ended by {signal.Signals(-code).name}"
    lines = stderr.strip().splitlines() or [f"exit status {code}"]
    return f"the graph could not be proved: {lines[-1][-400:]}"


def _limit(kind: int, soft: int, hard: int) -> None:
    import resource

    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    try:
        resource.setrlimit(kind, (soft, hard))
    except (ValueError, OSError):  # macOS refuses some
        return
