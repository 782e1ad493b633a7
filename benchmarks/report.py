"""Writes a run down for people: tables in Markdown, and one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.figures import Figure, Medians, spread
from benchmarks.load import GENERATOR_LIMIT
from benchmarks.measure import Sample, Scenario

COSTS = ("p50 ms", "p99 ms", "CPU us per request", "RSS MB")
HEADER = ("server", "transport", "connections", "steps", "requests/s", "spread", "session-steps/s", *COSTS)
TERMS = """\
- **server**: `floor` is a bare asyncio protocol that returns the body of the request. `asgi echo` is the
  same as an ASGI app under uvicorn. Neither runs a model, so they show the limit of the transport.
  `fastapi`, `mosec` and `triton` are the compared services. `carryover, plain route` is Carryover with
  `CARRYOVER_HOT_ROUTE=0`.
- **transport**: `http` sends one chunk per request. `bulk` sends the chunks of 1,000 sessions in one
  request. `mixed` is `bulk` with the sessions in a new order in every request. `socket` is one WebSocket
  for each session with one message in flight, `pipelined` has 8 messages in flight, and `shared` is one
  WebSocket for 64 sessions.
- **steps**: observations in each chunk.
- **session-steps/s**: observations processed per second, over all sessions.
- **spread**: the difference between the fastest and the slowest round, relative to the median.
- **CPU us per request**: processor time of all processes of the server. **RSS MB** is their memory."""
PROOF = (
    "closed loop: each connection sends its next request after the answer; `http` and `socket` use one "
    "session per connection",
    "network: `LSTM(1, 64)` + `Linear`",
    "checks: every answer was a success; the positions that the server reports account for every counted "
    "answer; in every row a sample of sessions was compared with one pass over everything they were sent",
)


@dataclass(frozen=True)
class Conditions:
    """The conditions of a run.

    Parameters
    ----------
    command
        The command line that repeats the run.
    machine
        Lines that describe the machine.
    left_out
        The reason why a server or a scenario was not measured, by its name.
    disturbance
        The share of the server's core that other processes took.
    """

    command: str
    date: str
    machine: Sequence[str]
    rounds: int
    seconds: int
    left_out: Mapping[str, str]
    disturbance: float


def markdown(
    samples: Mapping[Scenario, Sequence[Sample]],
    medians: Medians,
    figures: Sequence[Figure],
    conditions: Conditions,
) -> str:
    """Return the whole page."""
    parts = [
        "# Benchmarks",
        _preface(conditions),
        "![requests per second of each server, by number of connections and steps per chunk](benchmarks.png)",
        "## Comparisons",
        "Each figure is the ratio of two rows of the table of measurements below.",
        figures_table(figures, medians),
        "## Measurements",
        TERMS,
        matrix_table(samples, medians),
        _left_out(conditions),
        f"## Command\n\n```text\n{conditions.command}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_table(figures: Sequence[Figure], medians: Medians) -> str:
    """Return one row for each figure: the required ratio, the target, the measured ratio, the result."""
    rows = []
    for figure in figures:
        ratio = figure.measured(medians)
        if ratio is not None:
            rows.append(
                (
                    figure.title,
                    _bound(figure, figure.must),
                    _bound(figure, figure.aim),
                    *_verdict(figure, ratio),
                )
            )
    return (
        table(("comparison", "required", "target", "measured", "result"), rows)
        if rows
        else "This run measured none of the comparisons."
    )


def matrix_table(samples: Mapping[Scenario, Sequence[Sample]], medians: Medians) -> str:
    """Return one row for each scenario: medians, and the spread of the rounds."""
    rows = []
    for scenario, sample in medians.items():
        bound = " *" if sample.generator_share > GENERATOR_LIMIT else ""
        rows.append(
            (
                scenario.server,
                scenario.way,
                f"{scenario.connections}",
                f"{scenario.steps}",
                f"{sample.requests:,.0f}{bound}",
                f"{spread(samples[scenario]):.0%}",
                f"{sample.session_steps:,.0f}",
                f"{sample.p50_us / 1000:.2f}",
                f"{sample.p99_us / 1000:.2f}",
                f"{sample.cpu_us:.1f}",
                f"{sample.resident_mb:.0f}",
            )
        )
    note = "\n\n`*`: the load generator used its whole core, so the server could have served more."
    return table(HEADER, rows) + (note if any("*" in row[4] for row in rows) else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(medians: Medians, path: Path) -> None:
    """Draw requests/s by server and connections on a log scale, a panel for each chunk length."""
    steps = sorted({scenario.steps for scenario in medians if scenario.way == "http"})
    if not steps:
        return
    picture = Picture(figsize=(6.2 * len(steps), 4.6), layout="tight")
    counts = sorted({scenario.connections for scenario in medians if scenario.way == "http"})
    colours = {count: f"C{index}" for index, count in enumerate(counts)}
    panels = picture.subplots(1, len(steps), sharey=True, squeeze=False)
    for panel, length in zip(panels[0], steps, strict=True):
        _draw_panel(panel, length, medians, colours)
    panels[0][0].set_ylabel("requests/s")
    panels[0][0].legend(fontsize=8)
    picture.savefig(path, dpi=110)


def _draw_panel(panel: Axes, steps: int, medians: Medians, colours: Mapping[int, str]) -> None:
    rows = [scenario for scenario in medians if scenario.way == "http" and scenario.steps == steps]
    servers = list(dict.fromkeys(scenario.server for scenario in rows))
    connections = sorted({scenario.connections for scenario in rows})
    width = 0.8 / len(connections)
    for index, count in enumerate(connections):
        heights = [
            medians[scenario].requests
            if (scenario := Scenario(name, "http", count, steps)) in medians
            else 0.0
            for name in servers
        ]
        places = [place + index * width for place in range(len(servers))]
        label = f"{count} connection{'s' * (count > 1)}"
        panel.bar(places, heights, width, color=colours[count], label=label)
    panel.set_yscale("log")
    panel.set_xticks(
        [place + 0.4 - width / 2 for place in range(len(servers))], servers, rotation=30, ha="right"
    )
    panel.set_title(f"{steps} step{'s' * (steps > 1)} per request")
    panel.grid(axis="y", alpha=0.3)


def _preface(conditions: Conditions) -> str:
    lines = [*conditions.machine, *_procedure(conditions), *PROOF]
    written = (
        "This page compares Carryover with other servers on the same machine and in the same run. "
        f"`python -m benchmarks.run` wrote it on {conditions.date}."
    )
    return "\n".join([written, "", *(f"- {line}" for line in lines)])


def _procedure(conditions: Conditions) -> list[str]:
    return [
        f"figures: medians of {conditions.rounds} rounds of {conditions.seconds} s per row; each round runs "
        "the rows in a new random order",
        "cores: the server on one, the load generator on the other; one process per server; "
        "one intra-op thread",
        f"disturbance: other processes used {conditions.disturbance:.1%} of the server's core (median of all "
        "rows)",
    ]


def _left_out(conditions: Conditions) -> str:
    if not conditions.left_out:
        return ""
    return "## Not measured\n\n" + "\n".join(f"- {name}: {why}" for name, why in conditions.left_out.items())


def _bound(figure: Figure, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"at most {bound:g}" if figure.is_time else f"{bound:g}x"


def _verdict(figure: Figure, ratio: float) -> tuple[str, str]:
    text = f"{ratio:.2f}" if figure.is_time else f"{ratio:.1f}x"
    if figure.must is None:
        return text, ""
    if figure.reaches(figure.aim, ratio):
        return text, "target met"
    return text, "requirement met" if figure.reaches(figure.must, ratio) else "missed"
