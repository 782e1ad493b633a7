// What goes into a model and what comes out of it: its ports, and how each is drawn.

import { number } from "./dom.js";

export const FEW = 8; // more numbers than this are drawn as a heat map, and not as lines
const LARGEST = 3;

/** Each port with the place (`first`), the count (`size`) and the names of its numbers in a row. */
export function layOut(ports) {
  let first = 0;
  return ports.map((port) => {
    const size = port.shape.reduce((a, b) => a * b, 1);
    const numbered = () => Array.from({ length: size }, (_, i) => `${port.name}[${i}]`);
    const names = port.columns ?? (size === 1 ? [port.name] : numbered());
    const laid = { ...port, first, size, names, whole: !port.dtype.startsWith("float") };
    first += size;
    return laid;
  });
}

/** The inputs that a client sends; the server computes the time features, which come last. */
export function sentInputs(model) {
  return layOut(model.inputs.slice(0, model.inputs.length - 2 * model.time_features.length));
}

export const widthOf = (ports) => ports.reduce((sum, { size }) => sum + size, 0);

/** A model that is not known yet: its first number is drawn. */
export const UNKNOWN = [{ title: "", style: "line", kind: "number", output: 0, input: 0, next: true, names: [""] }];

/**
 * What is drawn of a session: a figure for each output, and for each small input if no output predicts an input.
 *
 * `style` is `line` (one number, with what was observed), `lines` or `heat`. `next` is true of a prediction of what
 * follows: it is drawn at the next position. Other outputs are drawn at the position of their observation.
 * `frameSeconds` is how long a position takes where it is a frame of samples.
 */
export function figuresOf(model) {
  const inputs = sentInputs(model);
  const known = inputs.flatMap(({ names }) => names);
  const figures = layOut(model.outputs).map((port) => {
    const input = port.size === 1 ? known.indexOf(port.names[0]) : -1;
    const next = port.names.every((name) => known.includes(name));
    return { ...figure(port), source: "predicted", output: port.first, input, next };
  });
  const { samples } = model;
  // Samples are not sent to a watcher. A position of such a figure is a frame of them.
  if (samples) return figures.map((figure) => ({ ...figure, frameSeconds: samples.frame / samples.rate }));
  if (figures.some(({ next }) => next)) return figures;
  const small = inputs.filter(({ size }) => size <= FEW);
  return [...figures, ...small.map((port) => ({ ...figure(port), source: "observed", output: -1, input: port.first, next: false }))];
}

function figure(port) {
  const { name, unit, dtype, whole, first, size, names, kind = "number" } = port;
  const style = size === 1 ? "line" : size <= FEW ? "lines" : "heat";
  return { title: name, unit, dtype, whole, kind, style, first, size, names };
}

/** The numbers of each step as one flat row, in the order of the model's outputs. */
export function outputRows({ predictions, outputs }, model) {
  if (!outputs) return flatRows(predictions ?? []);
  const order = model ? model.outputs.map(({ name }) => outputs[name]) : Object.values(outputs);
  return order[0].map((_, t) => order.flatMap((steps) => flat(steps[t])));
}

/** The rows of a forecast, flat in the same way. */
export function forecastRows({ forecast }, model) {
  return Array.isArray(forecast) ? flatRows(forecast) : outputRows({ outputs: forecast }, model);
}

export const flatRows = (rows) => rows.map(flat);
const flat = (row) => (Array.isArray(row) ? row.flat(Infinity) : [row]).map((value) => (value === null ? null : Number(value)));

/** The names of the numbers of a port beside its own name: `[3]` in place of `logits[3]`. */
export const shortNames = ({ title, names }) => names.map((name) => (name.startsWith(`${title}[`) ? name.slice(title.length) : name));

/** The largest numbers by name, such as `e 3.1, a 2`. */
export function largest(values, names) {
  const order = values.map((_, i) => i).filter((i) => values[i] !== null).sort((a, b) => values[b] - values[a]);
  return order.slice(0, LARGEST).map((i) => `${names[i]} ${number(values[i])}`).join(", ");
}

/** A few numbers, or the largest of many. */
export function brief(values, names) {
  return values.length <= FEW ? values.map((value) => number(value)).join(", ") : `largest of ${values.length}: ${largest(values, names)}`;
}
