// What the page has received of one session: columns by position, without the oldest.

const MAX_LENGTH = 20_000;
const MAX_NUMBERS = 2_000_000; // of a column; fewer positions are kept of wide rows
const SLACK = 0.2; // dropped together, so that dropping is rare

export class Trail {
  constructor() {
    this.clear();
  }

  clear() {
    this.first = null; // the position of index 0
    this.columns = { observed: [], predicted: [], lower: [], upper: [], score: [], time: [] };
    this.fan = null;
  }

  get length() {
    return Math.max(...Object.entries(this.columns).map(([name, column]) => (name === "time" ? 0 : column.length)));
  }

  /** The last position that was observed; 0 if there is none. */
  get last() {
    return this.first === null ? 0 : this.first + this.columns.observed.length - 1;
  }

  /**
   * Adds a chunk: `position` is that of the session after it; each row is a flat array of numbers.
   *
   * `times` are those of the observations, `nextTimes` those that the predictions are for: seconds since 1970.
   */
  chunk({ position, observations, predictions, lower, upper, scores, times, nextTimes }) {
    const start = position - observations.length + 1; // of the first observation
    if (this.first !== null && start < this.first) this.clear();
    this.first ??= start;
    this.#put("observed", start, observations);
    this.#put("predicted", start + 1, predictions); // a prediction is of the next position
    if (lower) this.#put("lower", start + 1, lower);
    if (upper) this.#put("upper", start + 1, upper);
    if (scores) this.#put("score", start, scores.map((score) => (Array.isArray(score) ? score : [score])));
    const rows = (list) => list.map((time) => (time === null ? null : [time]));
    if (times) this.#put("time", start, rows(times));
    if (nextTimes) this.#put("time", start + 1, rows(nextTimes));
    this.#drop(); // a forecast stays, to compare it with the observations
  }

  /** Adds predictions of another session, to compare them. */
  predictions(position, rows) {
    if (this.first === null) return;
    this.#put("predicted", position - rows.length + 2, rows);
    this.#drop();
  }

  forecast({ position, forecast, lower, upper, times }) {
    this.fan = { position, forecast, lower, upper, times };
  }

  /** The last `count` positions that are known, with those of the forecast. */
  span(count) {
    const first = this.first ?? this.fan?.position ?? 0;
    const last = Math.max(first, first + this.length - 1);
    const start = Math.max(first, last - count + 1);
    const end = this.fan ? Math.max(last, this.fan.position + this.fan.forecast.length) : last;
    const positions = Array.from({ length: end - start + 1 }, (_, i) => start + i);
    return { start, positions, none: positions.map(() => null) };
  }

  /** The columns of a figure with one number; an empty column is `none`. */
  window({ start, positions, none }, { output, input, next }, twin = null) {
    const cut = (rows, from, at) => (rows?.length && at >= 0 ? pick(rows, start - from, positions.length, at) : none);
    const back = next ? 0 : 1; // rows are kept at the position that follows theirs
    const ahead = this.fan && this.fan.position + this.fan.forecast.length >= start ? this.fan : null;
    const fan = (name) => cut(ahead?.[name], (ahead?.position ?? 0) + 1 - back, output);
    return {
      positions,
      none,
      observed: cut(this.columns.observed, this.first, input),
      predicted: cut(this.columns.predicted, this.first - back, output),
      lower: cut(this.columns.lower, this.first - back, output),
      upper: cut(this.columns.upper, this.first - back, output),
      twin: cut(twin?.columns.predicted, twin?.first - back, output),
      forecast: fan("forecast"),
      fanLower: fan("lower"),
      fanUpper: fan("upper"),
    };
  }

  /** For each position the numbers of a figure; null where there are none. */
  rows({ start, positions }, { source, first, size, next }) {
    const rows = this.columns[source];
    const from = start - this.first + (source === "predicted" && !next ? 1 : 0);
    return positions.map((_, i) => rows[from + i]?.slice(first, first + size) ?? null);
  }

  /** The surprise at each position; null if there is none. */
  scores({ start, positions }) {
    const { score } = this.columns;
    return score.length ? pick(score, start - this.first, positions.length, 0) : null;
  }

  /** The time of each position, in seconds since 1970; null if the session has none. */
  times({ start, positions }) {
    const { time } = this.columns;
    const known = pick(time, start - this.first, positions.length, 0);
    this.fan?.times?.forEach((seconds, i) => {
      const at = this.fan.position + 1 + i - start;
      if (at >= 0 && at < known.length) known[at] ??= seconds;
    });
    return known.some((seconds) => seconds !== null) ? known : null;
  }

  #put(name, position, rows) {
    const column = this.columns[name];
    const start = position - this.first;
    while (column.length < start) column.push(null);
    for (let i = 0; i < rows.length; i++) if (start + i >= 0) column[start + i] = rows[i];
  }

  #drop() {
    const widest = Math.max(...Object.values(this.columns).map((column) => column.at(-1)?.length ?? 1));
    const most = Math.min(MAX_LENGTH, Math.ceil(MAX_NUMBERS / widest));
    const over = this.length - most;
    if (over < SLACK * most) return;
    this.first += over;
    for (const column of Object.values(this.columns)) column.splice(0, over);
  }
}

/** One number from each of `size` rows from `start` on; null for a missing row. */
function pick(rows, start, size, at) {
  const column = new Array(size);
  for (let i = 0; i < size; i++) column[i] = rows[start + i]?.[at] ?? null;
  return column;
}
