"""Run mixed traffic for a long time, check every prediction, and look for leaks.

    python -m benchmarks.soak --seconds 600 --streams 48

The server has keys, a store on disk, and far fewer resident sessions than there are sessions. The streams of
three tenants send chunks over every route and retry some of them. They reset, fork, forecast, move a session
to another id, let sessions expire, and delete them. Meanwhile the model is reloaded, keys are added and
removed, and the server is stopped and started again under load. Each stream compares every answer with its
own float64 reference.

At quiet points (nothing in flight, no client connected) the program prints what the server process holds:
memory, open files, tasks, sockets, queue. At the end it deletes every session, and the server must hold none.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.reference import TOLERANCE
from benchmarks.soak.checks import WrongAnswer
from benchmarks.soak.run import Soak


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the run")
    parser.add_argument("--streams", type=int, default=48, help="streams at a time")
    parser.add_argument("--server-starts", type=int, default=3, help="how often the server is started")
    parser.add_argument("--pauses", type=int, default=3, help="quiet points between two starts")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn at random")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_soak(Path(folder), options))


async def _soak(folder: Path, options: argparse.Namespace) -> int:
    soak = Soak(folder, options.seed)
    print(f"soaking for {options.seconds:.0f} s, seed {options.seed}", flush=True)
    try:
        await soak.run(options.seconds, options.streams, options.server_starts, options.pauses)
        leaks = soak.leaks(options.pauses)
    except WrongAnswer as error:
        leaks = [str(error), *(folder / "server.log").read_text().splitlines()[-30:]]
    finally:
        if soak.service.process is not None and soak.service.process.poll() is None:
            soak.service.process.kill()
    print("\n".join(f"  {name}: {count:,}" for name, count in sorted(soak.counts.items())))
    print(f"  largest error of a prediction: {soak.checker.worst:.1e}; allowed: {TOLERANCE:.0e}")
    print("\n".join(leaks) or "every answer was correct, nothing leaked, and no session is left")
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
