// A session over samples: the sound that this page sends, where there is speech, and how fast the answers come.

import { $, counted, create } from "./dom.js";

const SHOWN = 10; // seconds of sound
const BIN = 0.02; // seconds of a column of the waveform
const RECENT = 5; // seconds of answers whose delay is shown
const MOST = 50; // segments that are listed
const RATES = [8000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export class VoicePane {
  constructor() {
    this.#clear();
    new ResizeObserver(() => this.#draw()).observe($("wave"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Shows another session; `model` is null for one that takes no samples. */
  open(session, model) {
    if (session === this.session && model?.name === this.model?.name) return;
    if (session !== this.session) this.#clear();
    Object.assign(this, { session, model });
    this.#draw();
  }

  #clear() {
    this.peaks = new Map(); // by column of the waveform: the largest size of a sample in it
    this.heardUntil = 0; // seconds
    this.segments = []; // in samples; `end` is null while there is speech
    this.delays = []; // [when, milliseconds]
    this.covered = this.frames = 0;
    this.own = null; // the rate of what this page sends
  }

  /** A chunk of the session: the samples that its frames cover, and the starts and ends of speech. */
  chunk({ covers: [first, stop], predictions, outputs, events }) {
    this.covered += stop - first;
    this.frames += (predictions ?? Object.values(outputs ?? {})[0] ?? []).length;
    for (const { event, sample } of events ?? []) {
      if (event === "speech_start") this.segments.push({ start: sample, end: null });
      else if (this.segments.length && this.segments.at(-1).end === null) this.segments.at(-1).end = sample;
      else this.segments.push({ start: null, end: sample }); // it began before the page watched
    }
    this.segments.splice(0, this.segments.length - MOST);
    this.#draw();
  }

  /** Sound that this page sends as a file; its rate here may be another than the session's. */
  draw(samples, rate) {
    this.heard(samples, rate, 0, 1);
    this.own = null;
  }

  /** Sound that this page sends: numbers of this size at most, from a position in samples on. */
  heard(samples, rate, position, size) {
    this.own = rate;
    const step = rate * BIN;
    for (let i = 0; i < samples.length; i++) {
      const column = Math.floor((position + i) / step);
      const level = Math.abs(samples[i]) / size;
      if (!(this.peaks.get(column) > level)) this.peaks.set(column, level);
    }
    this.heardUntil = (position + samples.length) / rate;
    const oldest = (this.heardUntil - 2 * SHOWN) / BIN;
    for (const column of this.peaks.keys()) {
      if (column >= oldest) break; // they are in the order of their coming
      this.peaks.delete(column);
    }
    this.#draw();
  }

  /** An answer came so many milliseconds after its packet was sent. */
  answered(milliseconds) {
    const now = performance.now();
    this.delays.push([now, milliseconds]);
    while (now - this.delays[0][0] > RECENT * 1000) this.delays.shift();
  }

  /** Samples a second of the session: what this page sends, or what its frames say. */
  get rate() {
    if (this.own) return this.own;
    if (!this.frames) return this.model.samples.rate;
    const about = (this.model.samples.rate * this.covered) / (this.frames * this.model.samples.frame);
    return RATES.reduce((best, rate) => (Math.abs(rate - about) < Math.abs(best - about) ? rate : best));
  }

  #draw() {
    if (!this.model) return;
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.model) return;
      this.#wave();
      this.#list();
      const delays = this.delays.map(([, each]) => each).sort((a, b) => a - b);
      const [middle, worst] = [delays[delays.length >> 1], delays.at(-1)].map((each) => `${Math.round(each)} ms`);
      $("delay").textContent = delays.length ? `Answers of the last ${RECENT} seconds: median ${middle}, worst ${worst}.` : "";
    });
  }

  #wave() {
    const canvas = $("wave");
    canvas.closest("figure").hidden = !this.peaks.size;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((each) => Math.round(each * devicePixelRatio));
    if (!width) return;
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const [silent, speech] = [css("--half"), css("--predicted")];
    const columns = SHOWN / BIN;
    const first = Math.max(0, Math.ceil(this.heardUntil / BIN) - columns);
    for (let i = 0; i < columns; i++) {
      const level = this.peaks.get(first + i);
      if (level === undefined) continue;
      context.fillStyle = this.#isSpeech((first + i) * BIN * this.rate) ? speech : silent;
      const size = Math.max(devicePixelRatio, level * height);
      context.fillRect((i * width) / columns, (height - size) / 2, Math.max(1, (0.7 * width) / columns), size);
    }
  }

  #isSpeech(sample) {
    return this.segments.some(({ start, end }) => (start ?? 0) <= sample && (end === null || sample < end));
  }

  #list() {
    const seconds = (samples) => (samples === null ? "–" : (samples / this.rate).toFixed(2));
    const rows = this.segments.map(({ start, end }) => {
      const length = start === null || end === null ? null : end - start;
      return [start === null ? "before" : seconds(start), end === null ? "now" : seconds(end), seconds(length)];
    });
    const text = JSON.stringify(rows);
    if (text === this.listed) return;
    this.listed = text;
    $("segments").replaceChildren(...rows.reverse().map((row) => create("tr", {}, ...row.map((cell) => create("td", {}, cell)))));
    $("segments-part").hidden = !rows.length;
    $("segments-title").textContent = `Speech: ${counted(rows.length, "segment")}`;
  }
}
