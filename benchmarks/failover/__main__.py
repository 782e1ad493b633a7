"""Run the failure tests on this machine: real processes, a real load balancer, a real store.

    python -m benchmarks.failover [--clients 64] [--rounds 1] [--only NAME ...] [--out FOLDER]

Needs redis-server and haproxy (both are Debian packages). Writes each history to FOLDER as JSON Lines. The
exit status is 1 if the checker finds an error, or if a stopped replica continued and none of its late commits
was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.failover import scenarios
from benchmarks.failover.deployment import Deployment
from benchmarks.failover.scenarios import Scenario
from benchmarks.failover.suite import Outcome, play

ON_THREE: tuple[Scenario, ...] = (
    scenarios.nothing,
    scenarios.killed,
    scenarios.asleep,
    scenarios.cut_from_store,
    scenarios.cut_from_balancer,
    scenarios.cut_off,
    scenarios.store_restarted,
    scenarios.rolling_restart,
)


def main() -> int:
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for round_number in range(options.rounds):
        outcomes += _round(options, options.out / f"round{round_number}")
    bad = [outcome for outcome in outcomes if outcome.complaints]
    unfenced = [outcome for outcome in outcomes if outcome.name == "asleep" and not outcome.fenced]
    for outcome in bad:
        print(f"{outcome.name}: {len(outcome.complaints)} errors, the first: {outcome.complaints[0]}")
    if unfenced:
        print("a stopped replica continued, and none of its late commits was refused")
    return 1 if bad or unfenced else 0


def _round(options: argparse.Namespace, folder: Path) -> list[Outcome]:
    folder.mkdir(parents=True, exist_ok=True)
    print(
        "| fault | recovery s | acknowledged chunks | retries | refused commits | errors |\n"
        "|---|---|---|---|---|---|"
    )
    outcomes = _played(options, folder, ON_THREE, replicas=3)
    outcomes += _played(options, folder, (scenarios.scaled,), replicas=4, running=2)
    return outcomes + _played(options, folder, (scenarios.primary_lost,), replicas=3, sentinels=True)


def _played(
    options: argparse.Namespace,
    folder: Path,
    which: tuple[Scenario, ...],
    replicas: int,
    running: int | None = None,
    *,
    sentinels: bool = False,
) -> list[Outcome]:
    wanted = [scenario for scenario in which if not options.only or scenario.__name__ in options.only]
    if not wanted:
        return []
    outcomes = []
    with (
        tempfile.TemporaryDirectory(prefix="failover-") as own,
        Deployment(Path(own), replicas, running, sentinels=sentinels) as deployment,
    ):
        for scenario in wanted:
            outcome = asyncio.run(play(deployment, scenario, folder, options.clients, options.think))
            print(
                f"| {outcome.name} | {outcome.recovery_seconds:.2f} | {outcome.chunks} | {outcome.retries} "
                f"| {outcome.fenced} | {len(outcome.complaints)} |",
                flush=True,
            )
            outcomes.append(outcome)
    return outcomes


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--think", type=float, default=0.1, help="seconds between an answer and the next chunk"
    )
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("failover-histories"))
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
