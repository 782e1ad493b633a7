"""Attack a server on this machine, and print what each attack did to another client of it.

    python -m benchmarks.attack [--only NAME ...] [--scale 0.1] [--redis] [--write-page] [--checkout FOLDER]

Everything runs on 127.0.0.1, against servers that this program starts and stops. Every attack is bounded in
count and time. A server that takes more memory than --memory is killed. The exit status is 1 if an attack
worked.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from benchmarks.attack.bombs import bombs, state_files
from benchmarks.attack.clients import clients
from benchmarks.attack.clock import clock
from benchmarks.attack.damage import damage
from benchmarks.attack.grpc_port import grpc_port
from benchmarks.attack.hosts import hosts
from benchmarks.attack.keys import keys
from benchmarks.attack.listings import listings
from benchmarks.attack.page import PAGE, row, section, table, write_section
from benchmarks.attack.refusals import refusals
from benchmarks.attack.result import Result, Run, observed
from benchmarks.attack.rows import rows
from benchmarks.attack.server import ROOT, Target, serving
from benchmarks.attack.smuggling import smuggling
from benchmarks.attack.sockets import fragments
from benchmarks.attack.stopping import stopping
from benchmarks.reference import write_artifact, write_seeded_weights


async def nothing(run: Run) -> AsyncIterator[Result]:
    """No attack: the noise of this machine."""
    async with serving(run.target, run.new_folder()) as server, observed(run, server) as view:
        await asyncio.sleep(3.0)
    result = view.result("none", "nothing", "the noise of this machine", bounded=False)
    run.noise_ms = result.longest_ms
    yield result


Attack = Callable[[Run], AsyncIterator[Result]]
ATTACKS: dict[str, Attack] = {
    attack.__name__.replace("_", "-"): attack
    for attack in (
        *(nothing, fragments, bombs, state_files, smuggling, refusals, stopping, listings),
        *(keys, hosts, grpc_port, clock, damage, rows, clients),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        target = Target(options.checkout.resolve(), folder / "models", options.memory)
        _write_models(folder)
        run = Run(target, folder, options.scale, options.redis)
        chosen = [ATTACKS[name] for name in options.only or ATTACKS if name != "nothing"]
        results = asyncio.run(_all(run, [nothing, *chosen]))
    command = shlex.join(
        ["python", "-m", "benchmarks.attack", *(sys.argv[1:] if arguments is None else arguments)]
    )
    print(f"\n{table(results)}")
    if options.write_page:
        write_section(section(results, command))
        print(f"\nwritten into {PAGE.relative_to(ROOT)}")
    return int(any(result.worked for result in results))


async def _all(run: Run, attacks: Sequence[Attack]) -> list[Result]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  (for the type checker)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # the servers are killed, too
    results: list[Result] = []
    for attack in attacks:
        start = time.monotonic()
        async for result in _attempt(attack, run):
            results.append(result)
            print(row(result), flush=True)
        print(f"  ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)
    return results


async def _attempt(attack: Attack, run: Run) -> AsyncIterator[Result]:
    """Run an attack; one that cannot be measured counts as one that worked."""
    try:
        async for result in attack(run):
            yield result
    except (OSError, RuntimeError, asyncio.IncompleteReadError) as error:
        nan, reason = float("nan"), " ".join(f"{type(error).__name__}: {error}".split())[-300:]
        yield Result(attack.__name__, "", nan, nan, 0.0, 0.0, f"not measured: {reason}", worked=True)


def _write_models(folder: Path) -> None:
    """Write two models of the same small network, so that lists can be filtered."""
    weights = folder / "weights.safetensors"
    write_seeded_weights(weights)
    for name in ("bench", "other"):
        write_artifact(weights, folder / "models" / name, name)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=list(ATTACKS), metavar="NAME", help=", ".join(ATTACKS))
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor for counts, such as 0.05 for a quick run"
    )
    parser.add_argument("--redis", action="store_true", help="lists with a Redis, too; needs redis-server")
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB", help="kill a server beyond this")
    parser.add_argument(
        "--write-page", action="store_true", help="write the table into docs/explanation/security.md"
    )
    parser.add_argument(
        "--checkout", type=Path, default=ROOT, help="attack the server of another checkout of this project"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 1:
        parser.error("--scale must be above 0 and at most 1")
    if options.redis:
        from benchmarks.failover.processes import SERVER

        if SERVER is None:
            parser.error("--redis needs redis-server: apt-get install redis-server")
    return options


if __name__ == "__main__":
    sys.exit(main())
