"""The table of results, and the section of the documentation that shows it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.attack.result import GROWTH_MIB, STOP_MS, Result
from benchmarks.attack.server import ROOT
from benchmarks.processes import machine_lines

PAGE = ROOT / "docs" / "explanation" / "security.md"
HEADING = "## Measured attacks"
COLUMNS = "| attack | sent | longest stop, ms | server busy, ms | peak memory, MiB | outcome | worked |"


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table."""
    return "\n".join([COLUMNS, "|---|---|---|---|---|---|---|", *map(row, results)])


def section(results: Sequence[Result], command: str) -> str:
    """Return the section: command, date, machine and table."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    machine = "; ".join(machine_lines()[:2])
    intro = (
        f"`{command}` printed this table on {date} ({machine}). During each attack, another client sends a "
        "chunk every 2 ms. The table shows the longest time that it waited for an answer, the most CPU time "
        "that the server used during one such wait, and its highest resident memory with its growth. An "
        f"attack worked if another client got a wrong answer, if it waited over {STOP_MS:.0f} ms longer than "
        f"without an attack while the server was busy for that long, if the memory grew by over {GROWTH_MIB} "
        "MiB, or if the outcome is what the attack aims at."
    )
    return f"{HEADING}\n\n{intro}\n\n{table(results)}\n"


def write_section(text: str, page: Path = PAGE) -> None:
    """Replace the section in the page, or add it at the end."""
    content = page.read_text()
    start = content.find(HEADING + "\n")
    if start < 0:
        page.write_text(content.rstrip("\n") + "\n\n" + text)
        return
    following = re.search(r"^## ", content[start + len(HEADING) :], re.MULTILINE)
    end = len(content) if following is None else start + len(HEADING) + following.start()
    rest = content[end:]
    page.write_text(content[:start] + text + ("\n" + rest if rest else ""))


def row(result: Result) -> str:
    """Return a row of the table."""
    stop, busy = (
        "" if math.isnan(value) else f"{value:,.0f}" for value in (result.longest_ms, result.busy_ms)
    )
    memory = f"{result.peak_mib:,.0f} (+{max(0.0, result.growth_mib):,.0f})"
    if math.isnan(result.peak_mib):
        memory = ""
    worked = "**yes**" if result.worked else "no"
    return f"| {result.attack} | {result.sent} | {stop} | {busy} | {memory} | {result.outcome} | {worked} |"
