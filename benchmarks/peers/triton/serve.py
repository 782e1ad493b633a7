"""Lays out a model repository and becomes tritonserver: ``python -m benchmarks.peers.triton.serve PORT``.

Install with ``pip install --no-deps nvidia-pytriton==0.7.0``. PyTriton itself passes no sequence ids to a
model, so only its server binary and Python backend are used. The backend's stub needs a shared libpython of
the same version (Debian: ``apt-get install libpython3.11``) and ignores PYTHONPATH: the model gets the path
of its packages from us.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent


def tritonserver() -> Path:
    """Return the folder of the server that PyTriton carries.

    Raises
    ------
    SystemExit
        When it is not installed.
    """
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        sys.exit("pip install --no-deps nvidia-pytriton==0.7.0")
    return Path(spec.origin).parent / "tritonserver"


def lay_out(folder: Path, home: Path) -> tuple[Path, Path]:
    """Write a model repository, and the backend beside the stub of this Python; return where they are."""
    version = folder / "models" / "sine" / "1"
    version.mkdir(parents=True)
    (folder / "models" / "sine" / "config.pbtxt").symlink_to(HERE / "config.pbtxt")
    (version / "model.py").symlink_to(HERE / "model.py")
    backend = folder / "backends" / "python"
    backend.mkdir(parents=True)
    stub = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    for part in [
        *(home / "backends" / "python").glob("*triton_python*"),
        stub / "triton_python_backend_stub",
    ]:
        (backend / part.name).symlink_to(part)
    return folder / "models", folder / "backends"


def main() -> None:
    home = tritonserver()
    models, backends = lay_out(Path(tempfile.mkdtemp(prefix="triton-")), home)
    command = [str(home / "bin" / "tritonserver"), "--model-repository", str(models)]
    command += ["--backend-directory", str(backends), "--http-address", "127.0.0.1"]
    command += ["--http-port", sys.argv[1], "--http-thread-count", "2", "--log-info", "false"]
    command += ["--allow-grpc", "false", "--allow-metrics", "false"]
    libraries = home.parent.parent / "nvidia_pytriton.libs"
    environment = os.environ | {
        "BENCHMARK_PACKAGES": str(home.parent.parent),
        "LD_LIBRARY_PATH": str(libraries),
    }
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
