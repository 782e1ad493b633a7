// One figure of a session: a number with what was observed, a few numbers as lines, or many as a heat map.

/* global uPlot */

import { timeTicks } from "./axis.js";
import { alertAt, drawAlerts } from "./marks.js";
import { create, measured, number } from "./dom.js";
import { largest, shortNames } from "./ports.js";
import { tipHook } from "./tip.js";

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
const WHOLE_STEPS = Array.from({ length: 16 }, (_, i) => [1, 2, 5].map((digit) => digit * 10 ** i)).flat();
const SECOND_STEPS = WHOLE_STEPS.map((step) => step / 100);
const MAX_HEAT_ROWS = 256; // more numbers than this share rows of the heat map: the largest is shown

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const seriesIndex = (name) => SERIES.findIndex(([column]) => column === name) + 1;

export class Figure {
  /** `small` is true of a figure among others; `hooks` are uPlot's; `alerts` returns those to be marked. */
  constructor(figure, { small, hooks = {}, alerts }) {
    this.figure = figure;
    this.alerts = alerts;
    this.host = create("div", { className: small ? "chart small" : "chart" });
    this.host.setAttribute("role", "img");
    this.host.setAttribute("aria-label", figure.title ? `Chart of ${figure.title}` : "Observed and predicted values");
    this.host.setAttribute("aria-describedby", "summary");
    this.note = create("span", { className: "note" });
    const titled = small || figure.unit || figure.style !== "line" || figure.kind !== "number";
    this.element = create("figure", {}, ...(titled ? [caption(figure, this.note)] : []), this.host);
    this.hooks = hooks;
  }

  /** Draws into the document; the element must be in it. */
  start() {
    const { figure } = this;
    const [series, more] = {
      line: () => [SERIES.map((row) => line(row, figure)), { bands: BANDS.map(band) }],
      lines: () => [figure.names.map((name, i) => line(["", name, `--line-${i + 1}`, { width: 1.8 }], figure)), {}],
      heat: () => [[{ label: "" }], {}],
    }[figure.style]();
    const rows = (i, plot) => this.#under(i, plot);
    const note = (position) => alertAt(this.alerts(), position);
    const { frameSeconds } = figure;
    const tip = tipHook(this.host, { rows, time: (i) => this.times?.[i] ?? null, note, frameSeconds });
    const hooks = { ...this.hooks, setCursor: [tip], draw: [(plot) => drawAlerts(plot, this.alerts())] };
    if (figure.style === "heat") hooks.drawAxes = [(plot) => this.#paint(plot)];
    else if (figure.kind === "probability") hooks.drawAxes = [halfLine];
    this.plot = new uPlot(options(this.host, series, { ...more, ...vertical(figure), hooks, times: () => this.times, frameSeconds }), null, this.host);
  }

  /** Shows these positions of the trail, on axes that fit them. */
  show(trail, span, twin) {
    const { figure } = this;
    this.times = span.times;
    if (figure.style === "line") {
      this.columns = trail.window(span, figure, twin);
      this.plot.setData([span.positions, ...SERIES.map(([name]) => this.columns[name])]);
      return;
    }
    const rows = (this.rows = trail.rows(span, figure));
    this.last = rows.findLast((row) => row !== null) ?? null;
    if (figure.style === "heat") {
      this.plot.setData([span.positions, span.none]);
      this.note.textContent = this.last ? `largest now: ${largest(this.last, shortNames(figure))}` : "";
    } else {
      const column = (_, i) => rows.map((row) => row?.[i] ?? null);
      this.plot.setData([span.positions, ...figure.names.map(column)]);
    }
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (width && (width !== this.plot.width || height !== this.plot.height)) this.plot.setSize({ width, height });
  }

  redraw() {
    this.plot.redraw();
  }

  remove() {
    this.plot?.destroy();
    this.element.remove();
  }

  /** The [name, value] that the pointer is over at this index. */
  #under(i, plot) {
    const { figure, columns } = this;
    const { unit, names, style } = figure;
    if (style === "line") return pointRows(columns, i, unit, figure);
    const row = this.rows?.[i];
    if (!row) return [];
    const short = shortNames(figure);
    if (style === "lines") return row.map((value, j) => [short[j], measured(value, unit)]);
    const at = Math.round(plot.posToVal(plot.cursor.top, "y"));
    const isName = at >= 0 && at < names.length;
    return [...(isName ? [[short[at], measured(row[at], unit)]] : []), ["largest", largest(row, short)]];
  }

  /** A column for each visible position and a row for each number, the first at the bottom. */
  #paint(plot) {
    const positions = plot.data[0];
    const { min, max } = plot.scales.x;
    const from = positions.findIndex((position) => position >= min);
    const to = positions.findLastIndex((position) => position <= max);
    if (!this.rows || from < 0 || to < from || !this.rows.slice(from, to + 1).some(Boolean)) return;
    const { left, top, width, height } = plot.bbox;
    const rows = this.rows.slice(from, to + 1);
    const image = heat(rows, this.figure, Math.min(rows.length, Math.max(1, Math.floor(width))));
    const start = plot.valToPos(positions[from] - 0.5, "x", true);
    const end = plot.valToPos(positions[to] + 0.5, "x", true);
    plot.ctx.save();
    plot.ctx.beginPath();
    plot.ctx.rect(left, top, width, height);
    plot.ctx.clip();
    plot.ctx.imageSmoothingEnabled = false;
    plot.ctx.drawImage(image, start, top, end - start, height);
    plot.ctx.restore();
  }
}

function pointRows(columns, i, unit, { next }) {
  const value = (name, text) => (columns[name][i] === null ? [] : [[text, measured(columns[name][i], unit)]]);
  const range = (low, high, text) =>
    columns[low][i] === null ? [] : [[text, `${number(columns[low][i])} to ${measured(columns[high][i], unit)}`]];
  return [
    ...value("observed", "observed"), ...value("predicted", next ? "predicted" : "output"), ...range("lower", "upper", "interval"),
    ...value("twin", "reset at each chunk"), ...value("forecast", "forecast"), ...range("fanLower", "fanUpper", "forecast interval"),
  ];
}

/** The chart of the surprise; `times`, `scores` and `alerts` return those that are shown. */
export function surpriseChart(host, { hooks, times, scores: shown, alerts }) {
  const rows = (i) => (shown()?.[i] == null ? [] : [["surprise", number(shown()[i])]]);
  const tip = tipHook(host, { rows, time: (i) => times()?.[i] ?? null, note: (position) => alertAt(alerts(), position) });
  hooks = { ...hooks, setCursor: [tip], draw: [(plot) => drawAlerts(plot, alerts())] };
  const scores = { label: "surprise", stroke: () => css("--surprise"), width: 1.2, points: { show: false }, fill: () => `${css("--surprise")}33` };
  return new uPlot(options(host, [scores], { hooks, times, range: [0, 1], y: { splits: [0, 0.5, 1] } }), null, host);
}

function caption(figure, note) {
  const unit = figure.unit ? ` (${figure.unit})` : "";
  const what = figure.source === "observed" ? "input" : figure.kind === "number" ? figure.dtype : figure.kind;
  const title = create("span", {}, create("b", {}, figure.title), `${unit} `, create("small", {}, what));
  const keys = figure.style === "lines" ? shortNames(figure).map((name, i) => key(`line-${i + 1}`, name)) : [];
  if (figure.style === "heat") keys.push(create("li", {}, "low ", create("i", { className: "ramp" }), " high"));
  else if (figure.kind === "probability") keys.push(key("half", "0.5"));
  return create("figcaption", {}, title, create("ul", { className: "legend" }, ...keys), note);
}

export const key = (name, text) => create("li", {}, create("i", { className: `key ${name}` }), text);

function options(host, series, { bands = [], hooks, times, range, y = {}, frameSeconds = null }) {
  const plain = frameSeconds ? (tick) => `${number(tick * frameSeconds)} s` : (tick) => tick.toLocaleString("en");
  let labels = null; // by position, while the ticks are times
  const horizontal = axis({
    size: () => (times() ? 46 : 32),
    incrs: frameSeconds ? SECOND_STEPS.map((step) => step / frameSeconds) : WHOLE_STEPS,
    splits: (plot, _, min, max, step) => {
      const ticks = times() && timeTicks(plot.data[0], times(), min, max, plot.bbox.width / devicePixelRatio);
      labels = ticks ? new Map(ticks.map(({ position, label }) => [position, label])) : null;
      return ticks ? ticks.map(({ position }) => position) : multiples(step, min, max);
    },
    values: (_, ticks) => ticks.map((tick) => labels?.get(tick) ?? plain(tick)),
  });
  return {
    width: host.clientWidth || 600,
    height: host.clientHeight || 300,
    legend: { show: false },
    cursor: { sync: { key: "carryover" }, drag: { x: true, y: false }, points: { size: 6 } },
    scales: { x: { time: false }, y: range ? { range } : {} },
    axes: [horizontal, axis({ size: 56, ...y })],
    series: [{ label: "position" }, ...series],
    bands,
    hooks,
  };
}

function multiples(step, min, max) {
  const first = Math.ceil(min / step);
  return Array.from({ length: Math.max(0, Math.floor(max / step) - first + 1) }, (_, i) => (first + i) * step);
}

/** The vertical axis of a figure: fixed for probabilities and yes-or-no outputs, whole numbers for integers. */
function vertical({ title, style, kind, dtype, whole, names }) {
  const short = (_, ticks) => ticks.map(tick);
  if (style === "heat") return { range: [-0.5, names.length - 0.5], y: { incrs: WHOLE_STEPS, values: (_, ticks) => ticks.map((i) => clip(shortNames({ title, names })[i] ?? "")) } };
  if (kind === "probability") return { range: [0, 1], y: { splits: [0, 0.25, 0.5, 0.75, 1] } };
  if (dtype === "bool") return { range: [-0.1, 1.1], y: { splits: [0, 1] } };
  return { y: whole ? { incrs: WHOLE_STEPS, values: short } : { values: short } };
}

const tick = (value) => (Math.abs(value) >= 1e5 ? value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 4 }) : number(value).replace("–", ""));
const clip = (name) => (name.length > 8 ? `…${name.slice(-7)}` : name);

function axis(more) {
  const thin = { stroke: () => css("--grid"), width: 1 };
  return { stroke: () => css("--soft"), grid: thin, ticks: thin, font: "12px system-ui, sans-serif", ...more };
}

function line([, label, name, more], { whole, source }) {
  if (source === "observed") more = { width: 2.5 };
  const paths = whole ? { paths: uPlot.paths.stepped({ align: 1 }) } : {};
  return { label, stroke: name ? () => css(name) : undefined, points: { show: false }, spanGaps: false, ...paths, ...more };
}

function band([upper, lower, name]) {
  return { series: [seriesIndex(upper), seriesIndex(lower)], fill: () => css(name) };
}

function halfLine(plot) {
  const { left, width } = plot.bbox;
  const y = Math.round(plot.valToPos(0.5, "y", true)) + 0.5;
  plot.ctx.save();
  plot.ctx.strokeStyle = css("--half");
  plot.ctx.lineWidth = devicePixelRatio;
  plot.ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
  plot.ctx.beginPath();
  plot.ctx.moveTo(left, y);
  plot.ctx.lineTo(left + width, y);
  plot.ctx.stroke();
  plot.ctx.restore();
}

/** The rows as an image of this width. Where several numbers share a pixel, the largest is shown. */
function heat(rows, { kind, size }, width) {
  const height = Math.min(size, MAX_HEAT_ROWS);
  const cells = new Float64Array(width * height).fill(NaN);
  rows.forEach((row, t) => {
    const x = Math.floor((t * width) / rows.length);
    for (let i = 0; row && i < size; i++) {
      const cell = (height - 1 - Math.floor((i * height) / size)) * width + x;
      if (row[i] !== null && !(cells[cell] >= row[i])) cells[cell] = row[i];
    }
  });
  const [low, high] = kind === "probability" ? [0, 1] : limits(cells);
  const [cold, hot] = [channels("--cold"), channels("--hot")];
  const image = new ImageData(width, height);
  cells.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    const part = high > low ? (value - low) / (high - low) : 0;
    image.data.set([...cold.map((channel, c) => channel + part * (hot[c] - channel)), 255], 4 * i);
  });
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function limits(cells) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of cells) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** Red, green and blue of a colour that is written as #rrggbb. */
const channels = (name) => css(name).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
