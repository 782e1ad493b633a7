// The figures of a session: one large, or several small ones, with a common axis of positions.

import { Figure, surpriseChart } from "./chart.js";

export const MOST = 8; // figures at once; further outputs are chosen by name

export class Charts {
  #host;
  #shortHost;
  #short;
  #figures = [];
  #planned = "";
  #zoomed = false;
  #hooks = { setSelect: [(plot) => (this.#zoomed = plot.select.width > 0)] };

  constructor(host, shortHost) {
    [this.#host, this.#shortHost] = [host, shortHost];
    this.#short = surpriseChart(shortHost, this.#hooks);
    for (const each of [host, shortHost]) each.addEventListener("dblclick", () => (this.#zoomed = false));
    new ResizeObserver(() => this.fit()).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** Draws these figures from now on. */
  plan(figures) {
    const planned = JSON.stringify(figures);
    if (planned === this.#planned) return;
    this.#planned = planned;
    this.#zoomed = false;
    for (const figure of this.#figures) figure.remove();
    const small = figures.length > 1;
    this.#host.classList.toggle("several", small);
    this.#figures = figures.map((figure) => new Figure(figure, { small, hooks: this.#hooks }));
    this.#host.replaceChildren(...this.#figures.map(({ element }) => element));
    for (const figure of this.#figures) figure.start();
  }

  /** Shows the last `count` positions of the trail; the zoom of the reader stays. */
  show(trail, count, twin) {
    const span = trail.span(count);
    for (const figure of this.#figures) figure.show(trail, span, twin, !this.#zoomed);
    const scores = trail.scores(span);
    if (this.#shortHost.hidden === (scores !== null)) this.#shortHost.hidden = scores === null;
    if (scores) this.#short.setData([span.positions, scores], !this.#zoomed);
    this.fit();
    if (this.#zoomed) this.redraw();
    return span;
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
