// The figures of a session: one large, or several small ones, with a common axis of positions.

import { Figure, surpriseChart } from "./chart.js";

export const MOST = 8; // figures at once; further outputs are chosen by name

export class Charts {
  #host;
  #shortHost;
  #short;
  #figures = [];
  #planned = "";
  #scores = null;
  #times = null;
  #alerts = [];
  #hooks = { setSelect: [(plot) => plot.select.width > 0 && this.#freeze(true)] };

  /** `frozen` is called when the reader has zoomed in, with true, and when the charts are live again. */
  constructor(host, shortHost, { frozen }) {
    [this.#host, this.#shortHost] = [host, shortHost];
    this.frozen = false;
    this.onFrozen = frozen;
    const shown = { times: () => this.#times, scores: () => this.#scores, alerts: () => this.#alerts };
    this.#short = surpriseChart(shortHost, { hooks: this.#hooks, ...shown });
    for (const each of [host, shortHost]) each.addEventListener("dblclick", () => this.#freeze(false));
    new ResizeObserver(() => this.fit()).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** Shows what comes in again, after the reader has zoomed in. */
  live() {
    this.#freeze(false);
  }

  #freeze(is) {
    if (this.frozen === is) return;
    this.frozen = is;
    this.onFrozen(is);
  }

  /** Draws these figures from now on. */
  plan(figures) {
    const planned = JSON.stringify(figures);
    if (planned === this.#planned) return;
    this.#planned = planned;
    this.live();
    for (const figure of this.#figures) figure.remove();
    const small = figures.length > 1;
    this.#host.classList.toggle("several", small);
    this.#figures = figures.map((figure) => new Figure(figure, { small, hooks: this.#hooks, alerts: () => this.#alerts }));
    this.#host.replaceChildren(...this.#figures.map(({ element }) => element));
    for (const figure of this.#figures) figure.start();
  }

  /** Shows the last `count` positions of the trail; nothing moves while the reader has zoomed in. */
  show(trail, count, twin, alerts) {
    if (this.frozen) return;
    const span = trail.span(count);
    this.#alerts = alerts.filter(({ position, end }) => (end ?? position) >= span.start && position <= span.positions.at(-1));
    this.#times = span.times = trail.times(span);
    for (const figure of this.#figures) figure.show(trail, span, twin);
    this.#scores = trail.scores(span);
    const part = this.#shortHost.closest("figure");
    if (part.hidden === (this.#scores !== null)) part.hidden = this.#scores === null;
    if (this.#scores) this.#short.setData([span.positions, this.#scores]);
    this.fit();
  }

  /** The times of the positions that are shown; null if they have none. */
  get times() {
    return this.#times;
  }

  /** Whether an alert was raised at one of these positions. */
  get hasAlerts() {
    return this.#alerts.length > 0;
  }

  /** The columns of each figure with one number. */
  get columns() {
    return this.#figures.filter(({ columns }) => columns).map(({ figure, columns }) => ({ figure, ...columns }));
  }

  fit() {
    for (const figure of this.#figures) figure.fit();
    const { clientWidth: width, clientHeight: height } = this.#shortHost;
    if (width && (width !== this.#short.width || height !== this.#short.height)) this.#short.setSize({ width, height });
  }

  redraw() {
    for (const figure of this.#figures) figure.redraw();
    this.#short.redraw();
  }
}
