// What the page has seen of one session: columns by position, the oldest dropped.

const ROOM = 20_000;
const SLACK = 4_000; // dropped at once, so that dropping is rare

export class Trail {
  constructor() {
    this.clear();
  }

  clear() {
    this.first = null; // the position of index 0
    this.columns = { observed: [], predicted: [], lower: [], upper: [], score: [] };
    this.fan = null;
  }

  get length() {
    return Math.max(...Object.values(this.columns).map((column) => column.length));
  }

  /** Takes a chunk: `position` is where it left the session, each row an array of one number a feature. */
  chunk({ position, observations, predictions, lower, upper, scores }) {
    const start = position - observations.length + 1; // of the first observation
    if (this.first !== null && start < this.first) this.clear();
    this.first ??= start;
    this.#put("observed", start, observations);
    this.#put("predicted", start + 1, predictions); // each is of what follows
    if (lower) this.#put("lower", start + 1, lower);
    if (upper) this.#put("upper", start + 1, upper);
    if (scores) this.#put("score", start, scores.map((score) => (Array.isArray(score) ? score : [score])));
    this.fan = null; // a forecast from where the session no longer is
    this.#drop();
  }

  /** Predictions of another model, or of the same one treated otherwise, laid beside. */
  predictions(position, rows) {
    if (this.first === null) return;
    this.#put("predicted", position - rows.length + 2, rows);
    this.#drop();
  }

  forecast({ position, forecast, lower, upper }) {
    this.fan = { position, forecast, lower, upper };
  }

  /** The last `count` positions of one output, each column as the chart takes it. */
  window(count, output, input, twin = null) {
    const first = this.first ?? this.fan?.position ?? 0;
    const last = Math.max(first, first + this.length - 1);
    const start = Math.max(first, last - count + 1);
    const ahead = this.fan ? this.fan.forecast.length : 0;
    const size = Math.max(0, Math.max(last, ahead ? this.fan.position + ahead : 0) - start + 1);
    const positions = Array.from({ length: size }, (_, i) => start + i);
    const from = (trail, name, at) => positions.map((p) => trail.columns[name][p - trail.first]?.[at] ?? null);
    const fan = (rows) => this.#fanned(positions, rows, output);
    return {
      positions,
      observed: input < 0 ? positions.map(() => null) : from(this, "observed", input),
      predicted: from(this, "predicted", output),
      lower: from(this, "lower", output),
      upper: from(this, "upper", output),
      score: from(this, "score", 0),
      twin: twin ? from(twin, "predicted", output) : null,
      forecast: fan(this.fan?.forecast),
      fanLower: fan(this.fan?.lower),
      fanUpper: fan(this.fan?.upper),
    };
  }

  #fanned(positions, rows, output) {
    if (!rows) return positions.map(() => null);
    return positions.map((p) => rows[p - this.fan.position - 1]?.[output] ?? null);
  }

  #put(name, position, rows) {
    const column = this.columns[name];
    const start = position - this.first;
    while (column.length < start) column.push(null);
    for (let i = 0; i < rows.length; i++) if (start + i >= 0) column[start + i] = rows[i];
  }

  #drop() {
    const over = this.length - ROOM;
    if (over < SLACK) return;
    this.first += over;
    for (const column of Object.values(this.columns)) column.splice(0, over);
  }
}
