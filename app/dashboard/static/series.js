// What is streamed: the sine, or the numbers of a CSV.

const STEP = 100 / 999; // as in sin(linspace(0, 100, 1000))
const SEPARATORS = [",", ";", "\t"];

/** The sine, without end, for each of `inputs` features a little later. */
export function* sine(inputs) {
  for (let i = 0; ; i++) yield Array.from({ length: inputs }, (_, j) => Math.sin((i - 5 * j) * STEP));
}

/** The columns of a CSV: its header, or one made up, and its rows of numbers. Throws where there are none. */
export function parsed(text) {
  const lines = text.replace(/^\uFEFF/, "").split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) throw new Error("the file is empty");
  const separator = SEPARATORS.reduce((a, b) => (lines[0].split(b).length > lines[0].split(a).length ? b : a));
  const rows = lines.map((line) => cells(line, separator));
  const headed = rows[0].some((cell) => cell !== "" && numeric(cell) === null);
  const names = headed ? rows[0] : rows[0].map((_, i) => `column ${i + 1}`);
  const values = (headed ? rows.slice(1) : rows).map((row) => names.map((_, i) => numeric(row[i] ?? "")));
  if (!values.length) throw new Error("the file has a header and nothing below it");
  return { names, values, times: times(headed ? rows.slice(1) : rows) };
}

/** The inputs that have to be sent: columns made from the times come last, and are made by the server. */
export function sent(model) {
  return model.inputs.slice(0, model.inputs.length - 2 * model.time_features.length);
}

/** The timestamps of rows `from` to `to` for a model that wants some: the file's own, else one step after the other. */
export function timestamps(model, table, from, to) {
  if (!model.time_features.length) return {};
  const step = (_, i) => (from + i) * model.interval_seconds;
  return { timestamps: table?.times?.slice(from, to) ?? Array.from({ length: to - from }, step) };
}

/** The rows of a CSV as a model takes them: columns of its inputs' names, else the first that hold numbers. */
export function rowsFor(inputs, { names, values }) {
  const known = names.map((name) => name.trim().toLowerCase());
  let places = inputs.map((input) => known.indexOf(input.name.toLowerCase()));
  if (places.includes(-1)) {
    const filled = (i) => values.filter((row) => row[i] !== null).length;
    places = names.map((_, i) => i).filter((i) => filled(i) > values.length / 2).slice(0, inputs.length);
  }
  if (places.length < inputs.length)
    throw new Error(`the model takes ${inputs.length} columns of numbers, the file has ${places.length}`);
  return { columns: places.map((i) => names[i]), rows: values.map((row) => places.map((i) => row[i])) };
}

/** Seconds since 1970 of the first column that holds nothing but times, read as UTC; null where none does. */
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
  return Date.parse(zoned ? iso : iso.includes("T") ? `${iso}Z` : iso) / 1000; // a date alone is UTC as it is
}

function cells(line, separator) {
  const found = line.matchAll(new RegExp(`(?:^|${separator})(?:"((?:[^"]|"")*)"|([^${separator}]*))`, "g"));
  return Array.from(found, ([, quoted, plain]) => (quoted !== undefined ? quoted.replaceAll('""', '"') : plain.trim()));
}

function numeric(cell) {
  return cell === "" || !Number.isFinite(Number(cell)) ? null : Number(cell);
}
