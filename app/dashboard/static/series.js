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
  return { names, values };
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

function cells(line, separator) {
  const found = line.matchAll(new RegExp(`(?:^|${separator})(?:"((?:[^"]|"")*)"|([^${separator}]*))`, "g"));
  return Array.from(found, ([, quoted, plain]) => (quoted !== undefined ? quoted.replaceAll('""', '"') : plain.trim()));
}

function numeric(cell) {
  return cell === "" || !Number.isFinite(Number(cell)) ? null : Number(cell);
}
