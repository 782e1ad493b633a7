// One session: its live chart, its facts and its actions.

import { AlertForm } from "./alertform.js";
import { call, isRefused, Problem, sessionPath, socket } from "./api.js";
import { key } from "./chart.js";
import { Charts, MOST } from "./charts.js";
import { $, ago, ask, clock, count, counted, create, measured, number, toast } from "./dom.js";
import { modelAddress } from "./model.js";
import { brief, FEW, figuresOf, flatRows, forecastRows, layOut, outputRows, shortNames, UNKNOWN } from "./ports.js";
import { SKILL, targetErrors } from "./errors.js";
import { TextPane } from "./text.js";
import { Trail } from "./trail.js";
import { VoicePane } from "./voice.js";

const SUMMARY_MS = 5000; // a screen reader reads the summary at most this often
const FACTS_MS = 2000;
const RETRY_MS = 1500;
const ROWS = 12;
const WARM = 500; // observations, of which the surprise keeps the usual error
const ALL = "all"; // in place of one output

export class Panel {
  constructor({ models, moved, gone, show, alerts }) {
    this.models = models; // returns a model by its name
    this.moved = moved; // called when an action here has changed the list
    this.gone = gone;
    this.alerts = alerts;
    this.alertForm = new AlertForm({ saved: (view) => (this.#show(view), this.moved()) });
    this.session = null;
    this.name = null; // of its model; null while it is not known
    this.every = UNKNOWN; // all its figures
    this.drawn = null; // the figures that the charts are of
    this.trail = new Trail();
    this.text = new TextPane({ show, moved, isShown: (session) => session === this.session });
    this.voice = new VoicePane();
    this.twin = null;
    this.frozenAt = null; // the last position when the reader zoomed in
    $("reset").onclick = () => this.#do(() => this.#reset());
    $("fork").onclick = () => this.#do(() => this.#fork());
    $("delete").onclick = () => this.#do(() => this.#delete());
    $("export").onclick = () => this.#do(() => this.#export());
    $("forecast").onclick = () => this.#do(() => this.#forecast());
    $("steps").onkeydown = (event) => event.key === "Enter" && $("forecast").click();
    $("window").onchange = $("output").onchange = () => this.#live();
    $("live").onclick = () => this.#live();
    $("last").closest("details").ontoggle = () => this.#draw();
    setInterval(() => this.request || this.#facts(), FACTS_MS); // as in list.js, a slow answer is waited for
    setInterval(() => this.#summarise(), SUMMARY_MS);
  }

  /** Shows this session; null for none. */
  open(session) {
    if (session === this.session) return;
    this.begun = new Promise((resolve) => (this.begin = resolve)); // the watch
    this.session = session;
    this.request = null; // for the facts of the session before
    this.trail.clear();
    this.twin = null;
    this.watching?.close();
    clearTimeout(this.retry);
    $("detail-title").textContent = session ?? "No session chosen";
    $("summary").textContent = "";
    this.isSummarised = false;
    $("nothing").hidden = session !== null;
    $("view").hidden = $("actions").hidden = session === null;
    $("alert-part").hidden = true; // until the session is known
    if (session === null) return;
    this.charts ??= new Charts($("chart"), $("surprise"), { frozen: (is) => this.#frozen(is) });
    this.charts.live();
    this.view = null;
    this.#showFacts([]); // not those of the session before
    this.#use(null);
    this.exists = null; // until the watch says so
    $("writing").hidden = false;
    this.epoch = null;
    this.alertForm.open(session);
    this.#watch(session);
    this.#draw();
  }

  /** Also shows the predictions of a second session that is reset at each chunk; null removes them. */
  compare(twin) {
    this.twin = twin;
    this.#draw();
  }

  /** Draws again, with what is known of alerts. */
  redraw() {
    this.#draw();
  }

  /** Back to what comes in. */
  #live() {
    this.charts?.live();
    this.#draw();
  }

  #frozen(is) {
    this.frozenAt = is ? this.trail.last : null;
    $("frozen").hidden = !is;
    $("frozen-text").textContent = "The chart stands still while you look closer.";
    this.#draw();
  }

  #watch(session) {
    if (isRefused()) return;
    const watching = (this.watching = socket(sessionPath(session, "/watch")));
    watching.onmessage = ({ data }) => session === this.session && this.#received(JSON.parse(data));
    watching.onopen = () => this.#link("live");
    watching.onclose = () => {
      if (this.watching !== watching || this.session === null) return;
      this.#link("lost");
      this.retry = setTimeout(() => this.#watch(session), RETRY_MS);
    };
  }

  #link(state) {
    $("link").className = `pill ${state}`;
    $("link").textContent = { live: "live", lost: "connection lost, trying again" }[state];
  }

  #received(message) {
    this.begin(); // what is sent from now on arrives here
    if (message.missed) toast(`${counted(message.missed, "observation")} came too fast to be shown`);
    for (const event of message.events ?? []) {
      if (this.isText) this.text.received(event);
      else if (event.event === "chunk") this.#chunk(event);
      else if (!["alert", "clear"].includes(event.event)) this.trail.fan = null;
      if (event.event === "gone") toast(`${this.session} is ${event.why}`);
    }
    const last = message.events?.at(-1) ?? message;
    this.epoch = last.epoch ?? this.epoch;
    if (message.model) this.#use(message.model);
    if (this.isText && message.events === undefined) this.text.begin(message);
    else if (message.history?.positions.length) this.#chunk({ ...message.history, position: message.position });
    this.#setExists(last.event !== "gone" && last.position !== null);
    this.#draw();
  }

  /** Draws the outputs of frames of samples, a position for each frame; the samples themselves are not sent. */
  #frames({ covers: [first, stop], ...event }) {
    const rows = outputRows(event, this.model);
    if (!rows.length) return;
    // Counted on: positions of another rate are rounded, and say less and less which frame it is.
    if (first !== this.covered) this.frameCount = Math.round((first * rows.length) / (stop - first));
    [this.covered, this.frameCount] = [stop, this.frameCount + rows.length];
    this.trail.chunk({ position: this.frameCount, observations: rows.map(() => [null]), predictions: rows });
  }

  #chunk(event) {
    if (event.covers) {
      this.voice.chunk(event);
      this.#frames(event);
      return;
    }
    const rows = (name) => event[name] && flatRows(event[name]);
    const [observations, lower, upper] = ["observations", "lower", "upper"].map(rows);
    // A history has the times of its observations beside those of its predictions; a chunk has the latter only.
    const isHistory = event.predicted_times !== undefined;
    const times = isHistory ? seconds(event.times) : null;
    const nextTimes = seconds(isHistory ? event.predicted_times : event.times);
    this.trail.chunk({ ...event, observations, predictions: outputRows(event, this.model), lower, upper, times, nextTimes });
  }

  /** Notes whether the session exists. A missing one has no facts, and there is nothing to be done with it. */
  #setExists(exists) {
    if (exists && !this.exists) setTimeout(() => this.#facts());
    if (!exists) this.#showFacts([["state", "this session does not exist: its first chunk creates it"]]);
    this.exists = exists;
    $("actions").hidden = $("alert-part").hidden = $("writing").hidden = !exists;
  }

  #draw() {
    if (this.frame || this.session === null || this.isText) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.charts.plan(this.figures);
      this.charts.show(this.trail, Number($("window").value), this.twin, this.alerts.spans(this.session, this.epoch));
      this.drawn = this.every;
      if (this.frozenAt !== null && this.trail.last > this.frozenAt)
        $("frozen-text").textContent = `The chart stands still while you look closer: ${counted(this.trail.last - this.frozenAt, "newer observation")}.`;
      this.#legend();
      if (!this.isSummarised && this.#inWords()) this.#summarise(); // the first is not waited for
      if ($("last").closest("details").open) this.#table();
    });
  }

  /** The figures that are drawn: all, without those beyond the first few, or the output that was chosen. */
  get figures() {
    const chosen = $("output").value;
    return chosen === ALL ? this.every.slice(0, MOST) : [this.every[Number(chosen)]];
  }

  /** Whether a prediction is short enough to be read as a list. */
  get #isBrief() {
    return (this.model?.targets.length ?? 1) <= FEW;
  }

  get model() {
    return this.models(this.name);
  }

  /** Whether the model writes text, which has its own pane in place of the charts. */
  get isText() {
    return Boolean(this.model?.vocabulary);
  }

  /** Notes the model of the session: its figures are drawn from now on. */
  #use(name) {
    if (name !== null && name === this.name && this.every !== UNKNOWN) return; // the reader's choice stays
    this.name = name;
    this.every = this.model ? figuresOf(this.model) : UNKNOWN;
    const titles = this.every.map(({ title }, i) => create("option", { value: i }, title));
    const all = this.every.length > MOST ? `the first ${MOST} of ${this.every.length}` : "all";
    $("output").replaceChildren(create("option", { value: ALL }, all), ...titles);
    $("output-label").hidden = this.every.length < 2;
    $("steps").disabled = $("forecast").disabled = this.model?.can_forecast === false;
    this.#showPane();
    this.#draw();
  }

  #showPane() {
    const { isText } = this;
    this.text.open(this.session, isText ? this.model : null);
    $("view").classList.toggle("of-text", isText);
    $("pane").hidden = !isText;
    const isSound = Boolean(this.model?.samples);
    this.voice.open(this.session, isSound ? this.model : null);
    $("view").classList.toggle("of-sound", isSound);
    $("voice").hidden = !isSound;
    $("steps-label").hidden = $("forecast").hidden = isText || isSound;
  }

  async #facts() {
    const session = this.session;
    if (session === null || !this.exists || document.hidden) return;
    const request = (this.request = Symbol("request")); // the answer of an earlier request is ignored
    try {
      const view = await call(sessionPath(session));
      if (request === this.request) this.#show(view);
    } catch (error) {
      if (error instanceof Problem && request === this.request) this.#showFacts([["state", error.message]]);
    } finally {
      if (request === this.request) this.request = null;
    }
  }

  #show(view) {
    this.view = view;
    this.#use(view.model);
    this.#surpriseNote(view);
    this.alertForm.show(view);
    const { errors } = view;
    const coverage = Object.entries(errors?.coverage ?? {}).find(([level]) => Number(level) === (view.level ?? 0.9));
    this.#showFacts([
      ["model", create("a", { href: modelAddress(view.model) }, view.model)],
      ["position", count(view.position)],
      ["since reset", count(view.observations_since_reset)],
      ...(view.rate === null ? [] : [["sample rate", `${count(view.rate)} Hz`]]),
      ...(this.#isBrief ? [["last prediction", view.last_prediction?.map((value) => number(value)).join(", ") ?? "–"]] : []),
      ...targetErrors(errors, this.model).map(({ name, rmse, skill }) => [
        name === null ? "RMSE" : `RMSE of ${name}`, create("span", { title: SKILL }, skill === null ? rmse : `${rmse} (skill ${number(skill, 3)})`),
      ]),
      ...(coverage ? [[`in the ${coverage[0]} interval`, number(coverage[1])]] : []),
      ...Object.entries(view.labels ?? {}).map(([name, value]) => [name, create("span", { className: "label" }, value)]),
      ["last seen", ago(view.updated)],
      ["expires", view.expires ? new Date(view.expires).toLocaleString() : "never"],
    ]);
  }

  /** Says how far the surprise is to be trusted. */
  #surpriseNote(view) {
    const seen = view.observations_since_reset;
    $("surprise-note").textContent =
      seen < WARM ? `It warms up: ${count(seen)} of about ${WARM} observations since the last reset.` : "";
  }

  #showFacts(facts) {
    $("facts").replaceChildren(...facts.map(([name, value]) => create("div", {}, create("dt", {}, name), create("dd", {}, value))));
  }

  #legend() {
    const { columns } = this.charts;
    const any = (name) => columns.some((each) => each[name] !== each.none);
    const names = [["observed", "observed", columns.some(({ figure }) => figure.input >= 0)]];
    names.push(["predicted", "predicted", columns.some(({ figure }) => figure.output >= 0 && figure.next)]);
    names.push(["predicted", "output", columns.some(({ figure }) => figure.output >= 0 && !figure.next)]);
    names.push(["band", `interval${this.view?.level ? ` (${this.view.level})` : ""}`, any("lower")]);
    names.push(["forecast", "forecast", any("forecast")], ["forgetful", "reset at each chunk", any("twin")]);
    names.push(["alert", "alert", this.charts.hasAlerts]);
    const shown = names.filter(([, , visible]) => visible);
    const legend = shown.map(([, text]) => text).join();
    if (legend === this.legend) return;
    this.legend = legend;
    $("legend").replaceChildren(...shown.map(([name, text]) => key(name, text)));
  }

  /** Describes the chart in words. */
  #summarise() {
    if (this.session === null || document.hidden || this.isText) return;
    const words = this.#inWords();
    this.isSummarised ||= words !== null;
    const text = words ?? "Waiting for chunks.";
    if ($("summary").textContent !== text) $("summary").textContent = text;
    if ($("last").closest("details").open) this.#table();
  }

  /** The error of each predicted input, or else the last outputs; null if there is nothing yet. */
  #inWords() {
    // Which outputs predict an input is not known yet, or the charts are still those from before it was.
    if (!this.model || this.drawn !== this.every) return null;
    const compared = this.charts.columns.filter(({ figure }) => figure.input >= 0 && figure.output >= 0);
    if (compared.length) {
      const words = compared.map((columns) => this.#errorInWords(columns)).filter(Boolean);
      return words.length ? words.join(" ") : null;
    }
    const last = this.trail.columns.predicted.at(-1);
    if (!last) return null;
    const words = (port) => `${port.name} ${cell(last, port)}`;
    return `The last outputs: ${layOut(this.model.outputs).slice(0, MOST).map(words).join("; ")}.`;
  }

  #errorInWords({ observed, predicted, figure: { title, unit } }) {
    const both = observed.map((value, i) => [value, predicted[i]]).filter(([a, b]) => a !== null && b !== null);
    if (!both.length) return null;
    const of = this.every.length > 1 ? ` of ${title}` : "";
    const [seen, expected] = both.at(-1).map((value) => measured(value, unit));
    return `The last ${counted(both.length, "predicted observation")}${of}: RMSE ${measured(rmse(both), unit)}, last observed ${seen}, predicted ${expected}.`;
  }

  /** The columns of the first figure that has both observations and predictions. */
  #compared() {
    return this.charts.columns.find(({ figure }) => figure.input >= 0 && figure.output >= 0);
  }

  #table() {
    const [head, rows] = this.#compared() ? this.#comparedRows(this.#compared()) : this.#outputRows();
    const cells = (tag, row, more) => create("tr", {}, ...row.map((text) => create(tag, more, text)));
    $("last-head").replaceChildren(cells("th", head, { scope: "col" }));
    $("last").replaceChildren(...rows.map((row) => cells("td", row, {})));
  }

  #comparedRows(c) {
    const seen = c.positions.map((_, i) => i).filter((i) => c.observed[i] !== null).slice(-ROWS).reverse();
    const interval = (i) => (c.lower[i] === null ? "–" : `${number(c.lower[i])} to ${number(c.upper[i])}`);
    const scores = this.trail.scores(c) ?? c.none;
    const times = this.charts.times;
    const when = (i) => (times ? [times[i] === null ? "–" : clock(times[i])] : []);
    const row = (i) => [count(c.positions[i]), ...when(i), number(c.observed[i]), number(c.predicted[i]), interval(i), number(scores[i])];
    const named = (text) => (c.figure.unit ? `${text} (${c.figure.unit})` : text);
    return [["position", ...(times ? ["time"] : []), named("observed"), named("predicted"), "interval", "surprise"], seen.map(row)];
  }

  #outputRows() {
    const ports = layOut(this.model?.outputs ?? []).slice(0, MOST);
    const { predicted } = this.trail.columns;
    const seen = predicted.map((_, i) => i).filter((i) => predicted[i]).slice(-ROWS).reverse();
    const row = (i) => [count(this.trail.first + i - 1), ...ports.map((port) => cell(predicted[i], port))];
    return [[this.model?.samples ? "frame" : "position", ...ports.map(({ name }) => name)], seen.map(row)];
  }

  /** Runs an action of a session. While it waits for its answer, the reader may open another session. */
  async #do(action) {
    try {
      await action();
    } catch (error) {
      toast(error.message);
    }
    this.#facts();
    this.moved();
  }

  async #reset() {
    const { session } = this;
    const view = await call(sessionPath(session, "/reset"), { method: "POST", body: {} });
    toast(`${session} was reset; its position stays ${count(view.position)}`);
  }

  async #fork() {
    const { session } = this;
    const id = await ask({ title: `Fork ${session}`, label: "New session", value: `${session}-fork`, yes: "Fork" });
    if (id === null) return;
    const view = await call(sessionPath(session, "/fork"), { method: "POST", body: id ? { id } : {} });
    toast(`${view.session} is a copy at position ${count(view.position)}`);
  }

  async #delete() {
    const { session } = this;
    const at = this.view ? ` It has seen ${counted(this.view.position, "observation")}.` : "";
    const text = `Its carry and its history are deleted and cannot be restored.${at}`;
    const confirmed = await ask({ title: `Delete ${session}?`, text, yes: "Delete", danger: true });
    if (!confirmed) return;
    if (session === this.session) this.exists = false; // no facts are requested meanwhile
    try {
      await call(sessionPath(session), { method: "DELETE" });
    } catch (error) {
      if (session === this.session) this.exists = true;
      throw error;
    }
    if (session === this.session) this.gone();
    toast(`${session} was deleted`);
  }

  async #export() {
    const { session } = this;
    const blob = await call(sessionPath(session, "/state"), { as: "blob" });
    const link = create("a", { href: URL.createObjectURL(blob), download: `${session}.safetensors` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async #forecast() {
    const { session } = this;
    const steps = Number($("steps").value);
    const level = this.view?.level ?? this.view?.learning?.levels?.[0];
    const interval = level ? `&level=${this.view.level ?? this.view.learning.levels.at(-1)}` : "";
    const answer = await call(sessionPath(session, `/forecast?steps=${steps}${interval}`));
    if (session !== this.session) return;
    const rows = (name) => answer[name] && flatRows(answer[name]);
    this.trail.forecast({ ...answer, forecast: forecastRows(answer, this.model), lower: rows("lower"), upper: rows("upper"), times: seconds(answer.times) });
    this.#live();
  }
}

/** The numbers of one output in a row, as text. */
const cell = (row, { name, first, size, names }) => brief(row.slice(first, first + size), shortNames({ title: name, names }));

/** Times in RFC 3339 as seconds since 1970; null stays null. */
const seconds = (times) => times?.map((time) => (time === null ? null : Date.parse(time) / 1000)) ?? null;

const rmse = (pairs) => Math.sqrt(pairs.reduce((sum, [a, b]) => sum + (a - b) ** 2, 0) / pairs.length);
