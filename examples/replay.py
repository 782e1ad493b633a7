"""A replay of many sessions at once: two hundred stations, moved on by one request a step.

    python -m examples.replay

Each station is a stretch of its own of a year of temperatures. `service.advance` numbers every station's
chunk: the server may be restarted without one of them losing its place.
"""

from __future__ import annotations

import time

import matplotlib.pyplot as plt
import numpy as np

from examples.common import options, served, temperatures

STATIONS, CHUNK = 200, 5


def main() -> None:
    given = options(__doc__ or "", "replay.png")
    series = temperatures("seattle").to_numpy()
    steps = min(given.steps, 300) // CHUNK * CHUNK
    starts = np.random.default_rng(0).integers(0, len(series) - steps - 1, STATIONS)
    stations = {f"station-{i:03}": series[start : start + steps + 1] for i, start in enumerate(starts)}
    predicted = {name: np.empty(steps, np.float32) for name in stations}
    with served(temperatures("sf"), "sf", given) as service:
        began = time.perf_counter()
        for at in range(0, steps, CHUNK):
            answers = service.advance({name: rows[at : at + CHUNK] for name, rows in stations.items()})
            for name, answer in answers.items():
                predicted[name][at : at + CHUNK] = answer.predictions
        seconds = time.perf_counter() - began
        print(f"{service.count()} sessions, {STATIONS * steps:,} observations in {seconds:.1f} s: ", end="")
        print(f"{STATIONS * steps / seconds:,.0f} a second, one connection")
    errors = np.array([predicted[name] - rows[1:] for name, rows in stations.items()])
    print(f"RMSE one hour ahead: {np.sqrt(np.mean(errors**2)):.3f} degrees over all stations")
    draw(given.out, errors)
    print(f"see {given.out}")


def draw(path, errors: np.ndarray) -> None:
    """How a network trained in another city finds its way in: the errors over all stations, by hour."""
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    hours = np.arange(errors.shape[1])
    for low, high, alpha in ((5, 95, 0.15), (25, 75, 0.3)):
        ends = np.percentile(errors, [low, high], axis=0)
        axes.fill_between(hours, *ends, color="C0", alpha=alpha, label=f"{high - low} % of the stations")
    axes.plot(hours, np.median(errors, axis=0), "C0", linewidth=1, label="median")
    axes.set(title="Error of two hundred sessions after their start", xlabel="hours streamed", ylabel="°C")
    axes.legend(loc="upper right", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
