"""A sensor with gaps: single readings and whole stretches are missing, and the session goes on through them.

    python -m examples.gaps

A missing reading is None (or NaN): it is filled with what the session itself had predicted, and is not learnt
from. A stretch without any is sent as `skip`. Beside it, the usual repair: the last reading again.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from examples.common import options, served, temperatures

MISSING, LONGEST = 0.2, 12


def main() -> None:
    given = options(__doc__ or "", "gaps.png")
    series = temperatures("sf")
    past, live = series[: -given.steps], series[-given.steps :]
    holed = with_gaps(live)
    with served(past, "sf", given, "--readout", "rls", "--levels", "0.9") as service:
        session = service.session("sensor")
        predicted = session.stream(holed, chunk=10, level=0.9).collect().predictions
        repaired = service.session("repaired").stream(holed.ffill(), chunk=10).collect().predictions
        session.skip(LONGEST)
        print(f"after {LONGEST} hours of silence the session is at {session.position}, and goes on")
    truth = live.to_numpy()[1:]
    missing = holed.isna().to_numpy()[1:]
    for name, numbers in {"gaps left to the session": predicted, "last reading repeated": repaired}.items():
        errors = numbers.to_numpy()[:-1] - truth
        summary = (
            f"RMSE {rmse(errors):.3f} degrees, where the reading was missing {rmse(errors[missing]):.3f}"
        )
        print(f"{name}: {summary}")
    draw(given.out, live, holed, predicted)
    print(f"see {given.out}")


def with_gaps(live: pd.Series) -> pd.Series:
    """The same with a fifth of the readings taken out, in stretches of up to `LONGEST` hours."""
    rng, holed = np.random.default_rng(0), live.copy()
    while holed.isna().mean() < MISSING:
        start = int(rng.integers(1, len(live) - LONGEST - 1))
        holed.iloc[start : start + int(rng.integers(1, LONGEST + 1))] = np.nan
    return holed


def rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def draw(path, live: pd.Series, holed: pd.Series, predicted: pd.Series) -> None:
    shown = slice(-min(len(live) - 1, 120), None)
    times = live.index[1:][shown]
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    axes.plot(times, live.to_numpy()[1:][shown], color="0.8", linewidth=3, label="what the sensor missed")
    axes.plot(times, holed.to_numpy()[1:][shown], "k.-", linewidth=1, markersize=4, label="observed")
    axes.plot(times, predicted.to_numpy()[:-1][shown], "C0", linewidth=1, label="predicted an hour before")
    axes.set(title="San Francisco: hourly temperature, a fifth of it missing", ylabel="°C")
    axes.legend(loc="upper left", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
