"""Hourly temperatures of Seattle, streamed a day at a time, with intervals that hold what they promise.

    python -m examples.weather

The network learns the first months; the rest is streamed into a session that corrects its readout by its own
errors and keeps a 90 % interval. A second session is reset at every chunk: what a service without state does.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from examples.common import options, served, temperatures

HOURS = 24


def main() -> None:
    given = options(__doc__ or "", "weather.png")
    series = temperatures("seattle")
    past, live = series[: -given.steps], series[-given.steps :]
    with served(past, "seattle", given, "--readout", "rls", "--levels", "0.9") as service:
        session = service.session("seattle")
        answer = session.stream(live, chunk=HOURS, level=0.9).collect()
        forecast = session.forecast(2 * HOURS, level=0.9)
        errors = session.info().errors
        forgetful = service.session("forgetful")
        without = []
        for start in range(0, len(live), HOURS):
            without.append(forgetful.advance(live[start : start + HOURS]).predictions)
            forgetful.reset()
    # What follows observation t was predicted at t: compare with the next one.
    truth = live.to_numpy()[1:]
    carried = answer.predictions.to_numpy()[:-1]
    reset = np.concatenate(without)[:-1]
    kept, lost, held = rmse(carried - truth), rmse(reset - truth), errors["coverage"]["0.9"]
    print(f"one hour ahead, RMSE in degrees: carried {kept:.3f}, reset daily {lost:.3f}")
    print(f"the 90 % interval held {held:.1%} of the observations")
    draw(given.out, live, answer, forecast)
    print(f"see {given.out}")


def rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def draw(path, live, answer, forecast) -> None:
    shown = min(len(live) - 1, 7 * HOURS)
    times = live.index[1:][-shown:]
    ahead = live.index[-1] + (np.arange(len(forecast)) + 1) * (live.index[1] - live.index[0])
    figure, axes = plt.subplots(figsize=(10, 4), layout="constrained")
    lower, upper, predicted = (
        numbers.to_numpy()[:-1][-shown:] for numbers in (answer.lower, answer.upper, answer.predictions)
    )
    axes.fill_between(times, lower, upper, alpha=0.25, label="90 % interval")
    axes.plot(times, live.to_numpy()[1:][-shown:], "k", linewidth=1, label="observed")
    axes.plot(times, predicted, linewidth=1, label="predicted an hour before")
    axes.plot(ahead, np.asarray(forecast), "C3--", linewidth=1, label="forecast of two days")
    axes.fill_between(ahead, forecast.lower, forecast.upper, color="C3", alpha=0.12)
    axes.set(title="Seattle: hourly temperature, streamed", ylabel="°C")
    axes.legend(loc="upper left", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
