// Errors of predictions, of each target in its own unit: a mean over °C and kW says nothing.

import { measured } from "./dom.js";

export const SKILL = "Skill: 1 is perfect, 0 is as good as repeating the last observation.";

/** The running error of each target that was observed; `name` is null if the model has one target only. */
export function targetErrors(errors, model) {
  const unit = (name) => model.outputs.find((port) => port.name === name || port.columns?.includes(name))?.unit ?? null;
  return (model ? (errors?.by_target ?? []) : []).flatMap(({ mse, skill }, i) => {
    const name = model.targets[i];
    if (mse === null || name === undefined) return [];
    return [{ name: model.targets.length > 1 ? name : null, rmse: measured(Math.sqrt(mse), unit(name), 3), skill }];
  });
}

/** Sums of squared errors of one-step predictions of each target, without missing observations. */
export class Errors {
  #indices;
  #last = null;
  #sums;
  #counts;

  /** `inputs` and `targets` are names of the numbers of an observation and of a prediction. */
  constructor(inputs, targets) {
    this.#indices = targets.map((target) => inputs.indexOf(target));
    this.#sums = targets.map(() => 0);
    this.#counts = targets.map(() => 0);
  }

  add(observations, predictions) {
    observations.forEach((row, t) => {
      const expected = t ? predictions[t - 1] : this.#last;
      this.#indices.forEach((index, j) => {
        if (!expected || index < 0 || row[index] === null) return;
        this.#sums[j] += (row[index] - expected[j]) ** 2;
        this.#counts[j] += 1;
      });
    });
    this.#last = predictions.at(-1);
  }

  /** Of each target; NaN where it was never compared. */
  get rmse() {
    return this.#sums.map((sum, j) => (this.#counts[j] ? Math.sqrt(sum / this.#counts[j]) : NaN));
  }
}
