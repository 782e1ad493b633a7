"""The shell of `make shell`."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ACTIVATE = ROOT / ".venv" / "bin" / "activate"


@pytest.mark.skipif(shutil.which("bash") is None or not ACTIVATE.exists(), reason="needs bash, and .venv")
def test_python_is_that_of_the_clone_though_the_users_settings_put_another_in_front(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    (tmp_path / ".bashrc").write_text(f'PATH="{tmp_path}:$PATH"\nMINE=kept\n')
    shell = ["bash", "--rcfile", "tools/shell.bash", "-i", "-c", 'command -v python; echo "$MINE"']
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        shell, check=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.splitlines() == [str(ROOT / ".venv" / "bin" / "python"), "kept"]
