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

COSTS = ("p50 ms", "p99 ms", "server CPU us", "RSS MB")
HEADER = ("served by", "way in", "connections", "steps", "requests/s", "spread", "session-steps/s", *COSTS)
PROOF = (
    "closed loop, each connection its own session, `LSTM(1, 64)` + `Linear`; CPU is the server's, a request",
    "every answer was a success, the server's own positions account for all that were counted, and a sample "
    "of sessions in every row was compared with one pass over all that they were sent",
)


@dataclass(frozen=True)
class Conditions:
    """Under what a run was made.

    Parameters
    ----------
    machine
        Lines that describe it.
    left_out
        By server or scenario, why it was not measured.
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
        "![requests a second](benchmarks.png)",
        "## Figures, as ratios in this one run",
        figures_table(figures, medians),
        "## The whole run",
        matrix_table(samples, medians),
        _left_out(conditions),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def figures_table(figures: Sequence[Figure], medians: Medians) -> str:
    """Return one row a figure: what was promised, what was aimed at, what was measured."""
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
        table(("figure", "must", "aim", "measured", ""), rows)
        if rows
        else "None of them was part of this run."
    )


def matrix_table(samples: Mapping[Scenario, Sequence[Sample]], medians: Medians) -> str:
    """Return one row a scenario: medians, and how far the rounds lay apart."""
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
    note = "\n\n`*`: the load generator's core was full; the server could have done more."
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
    colours = {count: f"C{turn}" for turn, count in enumerate(counts)}
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
    for turn, count in enumerate(connections):
        heights = [
            medians[scenario].requests
            if (scenario := Scenario(name, "http", count, steps)) in medians
            else 0.0
            for name in servers
        ]
        places = [place + turn * width for place in range(len(servers))]
        label = f"{count} connection{'s' * (count > 1)}"
        panel.bar(places, heights, width, color=colours[count], label=label)
    panel.set_yscale("log")
    panel.set_xticks(
        [place + 0.4 - width / 2 for place in range(len(servers))], servers, rotation=30, ha="right"
    )
    panel.set_title(f"{steps} step{'s' * (steps > 1)} a request")
    panel.grid(axis="y", alpha=0.3)


def _preface(conditions: Conditions) -> str:
    lines = [*conditions.machine, *_procedure(conditions), *PROOF]
    written = f"Written by `{conditions.command}`, {conditions.date}."
    return "\n".join([written, "", *(f"- {line}" for line in lines)])


def _procedure(conditions: Conditions) -> list[str]:
    return [
        f"medians of {conditions.rounds} rounds of {conditions.seconds} s a row, each in a random order",
        "the server on one core, the load generator on another; one process a server, one intra-op thread",
        f"other processes took {conditions.disturbance:.1%} of the server's core (median over all rows)",
    ]


def _left_out(conditions: Conditions) -> str:
    if not conditions.left_out:
        return ""
    return "## Left out\n\n" + "\n".join(f"- {name}: {why}" for name, why in conditions.left_out.items())


def _bound(figure: Figure, bound: float | None) -> str:
    if bound is None:
        return ""
    return f"at most {bound:g}" if figure.is_time else f"{bound:g}x"


def _verdict(figure: Figure, ratio: float) -> tuple[str, str]:
    text = f"{ratio:.2f}" if figure.is_time else f"{ratio:.1f}x"
    if figure.must is None:
        return text, ""
    if figure.reaches(figure.aim, ratio):
        return text, "aim"
    return text, "must" if figure.reaches(figure.must, ratio) else "missed"
