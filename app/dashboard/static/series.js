// The streamed series: the sine, or the rows of a file, which the server reads.

const STEP = 100 / 999; // as in sin(linspace(0, 100, 1000))

/** The endless sine, with a small delay for each further number of a row, in the range of its input. */
export function* sine(inputs) {
  const numbers = inputs.flatMap((input) => Array(input.size).fill(input));
  for (let i = 0; ; i++) yield numbers.map((input, j) => within(input, Math.sin((i - 5 * j) * STEP)));
}

/** A number from -1 to 1 as this input takes it: in its range, and whole if it must be. */
function within({ dtype, whole, range }, value) {
  const wide = { float: [-1, 1], int: [-100, 100], uint: [0, 255], bool: [0, 1] }[dtype.replace(/\d+$/, "")];
  const [low, high] = range ?? wide;
  const scaled = range || whole ? low + ((value + 1) / 2) * (high - low) : value;
  return whole ? Math.round(scaled) : scaled;
}

/** The timestamps of rows `from` to `to`, if the model needs them: those of the file, or regular ones. */
export function timestamps(model, table, from, to) {
  if (!model.time_features.length) return {};
  const step = (_, i) => (from + i) * model.interval_seconds;
  return { timestamps: table?.timestamps?.slice(from, to) ?? Array.from({ length: to - from }, step) };
}
