// The streamed series: the sine, or the numbers of a CSV.

const STEP = 100 / 999; // as in sin(linspace(0, 100, 1000))
const SEPARATORS = [",", ";", "\t"];

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

/** The columns of a CSV: names (from its header, or made up) and rows of numbers. Throws if there are no rows. */
export function parseCsv(text) {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) throw new Error("the file is empty");
  const separator = SEPARATORS.reduce((a, b) => (lines[0].split(b).length > lines[0].split(a).length ? b : a));
  const rows = lines.map((line) => cells(line, separator));
  const hasHeader = rows[0].some((cell) => cell !== "" && numeric(cell) === null);
  const names = hasHeader ? rows[0] : rows[0].map((_, i) => `column ${i + 1}`);
  const values = (hasHeader ? rows.slice(1) : rows).map((row) => names.map((_, i) => numeric(row[i] ?? "")));
  if (!values.length) throw new Error("the file has a header and nothing below it");
  return { names, values, times: times(hasHeader ? rows.slice(1) : rows) };
}

/** The timestamps of rows `from` to `to`, if the model needs them: those of the file, or regular ones. */
export function timestamps(model, table, from, to) {
  if (!model.time_features.length) return {};
  const step = (_, i) => (from + i) * model.interval_seconds;
  return { timestamps: table?.times?.slice(from, to) ?? Array.from({ length: to - from }, step) };
}

/** The rows of a CSV for a model: the columns with the names of its inputs, or else the first numeric ones. */
export function rowsFor(inputs, { names, values }) {
  const known = names.map((name) => name.trim().toLowerCase());
  const wanted = inputs.flatMap((input) => input.names);
  let indices = wanted.map((name) => known.indexOf(name.toLowerCase()));
  if (indices.includes(-1)) {
    const filled = (i) => values.filter((row) => row[i] !== null).length;
    indices = names.map((_, i) => i).filter((i) => filled(i) > values.length / 2).slice(0, wanted.length);
  }
  if (indices.length < wanted.length)
    throw new Error(`the model needs ${wanted.length} columns of numbers, the file has ${indices.length}`);
  return { columns: indices.map((i) => names[i]), rows: values.map((row) => indices.map((i) => row[i])) };
}

/** Seconds since 1970 from the first column that has only times, read as UTC; null if there is none. */
function times(rows) {
  for (let i = 0; i < rows[0].length; i++) {
    const read = rows.map((row) => (numeric(row[i] ?? "") === null ? seconds(row[i] ?? "") : NaN));
    if (!read.some(Number.isNaN)) return read;
  }
  return null;
}

function seconds(text) {
  const zoned = /[zZ]$|[+-]\d\d:?\d\d$/.test(text);
  const iso = text.trim().replace(" ", "T");
  return Date.parse(zoned ? iso : iso.includes("T") ? `${iso}Z` : iso) / 1000; // a date alone is parsed as UTC
}

function cells(line, separator) {
  const found = line.matchAll(new RegExp(`(?:^|${separator})(?:"((?:[^"]|"")*)"|([^${separator}]*))`, "g"));
  return Array.from(found, ([, quoted, plain]) => (quoted !== undefined ? quoted.replaceAll('""', '"') : plain.trim()));
}

function numeric(cell) {
  return cell === "" || !Number.isFinite(Number(cell)) ? null : Number(cell);
}
