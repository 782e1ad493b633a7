"""Compile the loops of a clone that has none compiled yet, on two cores: `make test` begins with it.

The first import of a module with loops compiles them, in 40 seconds of one core. Each step here has a process
for each of its entries, and takes about as long as its longest.
"""

from __future__ import annotations

import os
import subprocess
import sys

from app.cli.serve import is_first_start

STEPS = (
    (
        "models.adaptation.horizon_kernels, models.adaptation.alarm_kernels",
        "app.codec.plain_parser, models.nets.kernels, app.session.name_table, app.codec.bulk.session_ids",
    ),
    ("app.codec.plain_answers", "app.engine.direct"),  # these import what the first step has compiled
)


def main() -> None:
    """Do nothing where there are compiled loops: one that has changed is compiled when it is imported."""
    if not is_first_start() or (os.cpu_count() or 1) < 2:
        return
    print("compiling loops, once: this takes about half a minute", file=sys.stderr, flush=True)
    for step in STEPS:
        processes = [subprocess.Popen([sys.executable, "-c", f"import {modules}"]) for modules in step]
        for process in processes:
            process.wait()  # what it could not compile is compiled, or fails, where it is imported


if __name__ == "__main__":
    main()
