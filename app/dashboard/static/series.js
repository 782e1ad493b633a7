// The streamed series: an example made for the inputs of a model, or the rows of a file, which the server reads.

import { measured, number } from "./dom.js";
import { sentInputs } from "./ports.js";

const PERIOD = (2 * Math.PI * 999) / 100; // observations, as in sin(linspace(0, 100, 1000))
const LEAST_PERIOD = 4;
const DAY = 86_400; // seconds
const DELAY = 5; // observations from the wave of one number to that of the next
const TYPES = { float: [-1, 1], int: [-100, 100], uint: [0, 255], bool: [0, 1] };
const NAMED = 3; // inputs that are described

/** Endless observations: each number swings, or counts where it is whole, through what is usual for its input. */
export function* example(model) {
  const numbers = sentInputs(model).flatMap((input) => Array(input.size).fill({ ...input, limits: limits(input) }));
  const step = (2 * Math.PI) / period(model);
  const value = ({ whole, limits: [low, high] }, i) =>
    whole ? low + (i % (high - low + 1)) : (low + high) / 2 + ((high - low) / 2) * Math.sin(i * step);
  for (let i = 0; ; i++) yield numbers.map((input, j) => value(input, input.whole ? i + j : i - DELAY * j));
}

/** What the example is, in words. */
export function exampleInWords(model) {
  const inputs = sentInputs(model);
  const words = (input) => {
    const [low, high] = limits(input);
    return `${input.name} ${input.whole ? "counts" : "swings"} from ${number(low)} to ${measured(high, input.unit)}`;
  };
  const more = inputs.length > NAMED ? [`and ${inputs.length - NAMED} more`] : [];
  const text = `An example: ${[...inputs.slice(0, NAMED).map(words), ...more].join("; ")}.`;
  return inputs.every(isKnown) ? text : `${text} The model does not say what is usual, so its answers to this say little.`;
}

const isKnown = ({ range, mean }) => range !== null || mean !== null;

/** The least and the greatest number of the example: those that the input takes, or one standard deviation about its mean. */
function limits({ dtype, range, mean, std }) {
  if (range) return range;
  return mean === null ? TYPES[dtype.replace(/\d+$/, "")] : [mean - std, mean + std];
}

/** A day where the model knows times, so that the hours fit. */
function period({ time_features: features, interval_seconds: seconds }) {
  const day = features.length && seconds ? DAY / seconds : 0;
  return day >= LEAST_PERIOD ? day : PERIOD;
}

/** The timestamps of rows `from` to `to`, if the model needs them: those of the file, or regular ones. */
export function timestamps(model, table, from, to) {
  if (!model.time_features.length) return {};
  const step = (_, i) => (from + i) * model.interval_seconds;
  return { timestamps: table?.timestamps?.slice(from, to) ?? Array.from({ length: to - from }, step) };
}
