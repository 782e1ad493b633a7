// Two uPlot charts with a common axis of positions: their series and colours.

/* global uPlot */

const SERIES = [
  // [column, label, colour, further options]
  ["observed", "observed", "--observed", { width: 5 }], // wide and pale, so that a good prediction lies on it
  ["predicted", "predicted", "--predicted", { width: 2 }],
  ["upper", "upper", null, {}],
  ["lower", "lower", null, {}],
  ["twin", "reset at each chunk", "--forgetful", { width: 1.8, dash: [6, 4] }],
  ["forecast", "forecast", "--forecast", { width: 2 }],
  ["fanUpper", "forecast, upper", null, {}],
  ["fanLower", "forecast, lower", null, {}],
];
const BANDS = [["upper", "lower", "--band"], ["fanUpper", "fanLower", "--fan"]];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seriesIndex = (name) => SERIES.findIndex(([column]) => column === name) + 1;

export class Chart {
  #plot;
  #short;
  #hosts;
  #zoomed = false;

  constructor(host, shortHost) {
    this.#hosts = [host, shortHost];
    const zoomed = { setSelect: [(plot) => (this.#zoomed = plot.select.width > 0)] };
    this.#plot = new uPlot(options(host, SERIES.map(line), { bands: BANDS.map(band), hooks: zoomed }), null, host);
    const scores = { label: "surprise", stroke: () => colour("--surprise"), width: 1.2, fill: () => `${colour("--surprise")}33` };
    this.#short = new uPlot(options(shortHost, [scores], { hooks: zoomed, range: [0, 1] }), null, shortHost);
    host.addEventListener("dblclick", () => (this.#zoomed = false));
    shortHost.addEventListener("dblclick", () => (this.#zoomed = false));
    new ResizeObserver(() => this.fit()).observe(host);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** Shows the columns of `Trail.window`; the zoom of the reader stays. */
  show(columns) {
    this.#plot.setData([columns.positions, ...SERIES.map(([name]) => columns[name])], !this.#zoomed);
    const scored = columns.score !== columns.none;
    if (this.#hosts[1].hidden === scored) {
      this.#hosts[1].hidden = !scored;
      this.fit();
    }
    if (scored) this.#short.setData([columns.positions, columns.score], !this.#zoomed);
    if (this.#zoomed) this.redraw();
  }

  fit() {
    for (const [i, plot] of [this.#plot, this.#short].entries()) {
      const { clientWidth: width, clientHeight: height } = this.#hosts[i];
      if (width && (width !== plot.width || height !== plot.height)) plot.setSize({ width, height });
    }
  }

  redraw() {
    this.#plot.redraw();
    this.#short.redraw();
  }
}

function options(host, series, { bands = [], hooks, range }) {
  return {
    width: host.clientWidth || 600,
    height: host.clientHeight || 300,
    legend: { show: false },
    cursor: { sync: { key: "carryover" }, drag: { x: true, y: false }, points: { size: 6 } },
    scales: { x: { time: false }, y: range ? { range } : {} },
    axes: [axis({ values: (_, ticks) => ticks.map((tick) => tick.toLocaleString("en")) }), axis({ size: 56 })],
    series: [{ label: "position" }, ...series],
    bands,
    hooks,
  };
}

function axis(more) {
  const thin = { stroke: () => colour("--grid"), width: 1 };
  return { stroke: () => colour("--soft"), grid: thin, ticks: thin, font: "12px system-ui, sans-serif", ...more };
}

function line([, label, name, more]) {
  return { label, stroke: name ? () => colour(name) : undefined, points: { show: false }, spanGaps: false, ...more };
}

function band([upper, lower, name]) {
  return { series: [seriesIndex(upper), seriesIndex(lower)], fill: () => colour(name) };
}
