"""What a hung test tells, whatever it waits in."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.helpers.paths import ROOT

HANGING = """
import asyncio, time
import pytest
import uvloop

async def nobody_answers():
    await asyncio.get_running_loop().create_future()

def test_in_a_loop():
    uvloop.run(nobody_answers())

def test_in_a_call():
    time.sleep(60)

@pytest.fixture
def endless():
    yield
    time.sleep(60)

def test_in_what_follows(endless):
    pass

def test_after_all_of_them():
    pass
"""


def test_a_hung_test_fails_by_name_with_its_stack_and_the_run_goes_on(tmp_path):
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 1\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.helpers.hung",
        "-p",
        "no:cacheprovider",
        "-rA",
        "-n",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    for line in (
        "FAILED test_hanging.py::test_in_a_loop - Failed: it hung: after 1 s",
        "FAILED test_hanging.py::test_in_a_call - Failed: it hung: after 1 s",
        "ERROR test_hanging.py::test_in_what_follows - Failed: it hung: after 1 s",
        "PASSED test_hanging.py::test_after_all_of_them",
        "in nobody_answers",
        "in test_in_a_call",
    ):
        assert line in done.stdout, done.stdout
