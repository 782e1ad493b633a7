// One session: its live chart, its facts and its actions.

import { call, Problem, sessionPath, socket } from "./api.js";
import { Chart } from "./chart.js";
import { $, ago, ask, count, create, number, toast } from "./dom.js";
import { Trail } from "./trail.js";

const SUMMARY_MS = 5000; // a screen reader reads the summary at most this often
const FACTS_MS = 2000;
const RETRY_MS = 1500;
const ROWS = 12;

export class Panel {
  constructor({ models, moved, gone }) {
    this.models = models; // returns a model by its name
    this.moved = moved; // called when an action here has changed the list
    this.gone = gone;
    this.session = null;
    this.trail = new Trail();
    this.twin = null;
    $("reset").onclick = () => this.#do(() => this.#reset());
    $("fork").onclick = () => this.#do(() => this.#fork());
    $("delete").onclick = () => this.#do(() => this.#delete());
    $("export").onclick = () => this.#do(() => this.#export());
    $("forecast").onclick = () => this.#do(() => this.#forecast());
    $("steps").onkeydown = (event) => event.key === "Enter" && $("forecast").click();
    $("window").onchange = $("output").onchange = () => this.#draw();
    setInterval(() => this.#facts(), FACTS_MS);
    setInterval(() => this.#summarise(), SUMMARY_MS);
  }

  /** Shows this session; null for none. */
  open(session) {
    if (session === this.session) return;
    this.session = session;
    this.trail.clear();
    this.twin = null;
    this.watching?.close();
    clearTimeout(this.retry);
    $("detail-title").textContent = session ?? "No session chosen";
    $("nothing").hidden = session !== null;
    $("view").hidden = $("actions").hidden = session === null;
    if (session === null) return;
    this.chart ??= new Chart($("chart"), $("surprise"));
    this.view = null;
    this.exists = false; // until the watch says so
    this.#watch(session);
    this.#draw();
  }

  /** Also shows the predictions of a second session that is reset at each chunk; null removes them. */
  compare(twin) {
    this.twin = twin;
    this.#draw();
  }

  #watch(session) {
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
    if (message.missed) toast(`${count(message.missed)} observations came too fast to be shown`);
    for (const event of message.events ?? []) {
      if (event.event === "chunk") this.trail.chunk(event);
      else this.trail.fan = null;
      if (event.event === "gone") toast(`${this.session} is ${event.why}`);
    }
    const last = message.events?.at(-1) ?? message;
    this.#setExists(last.event !== "gone" && last.position !== null);
    this.#draw();
  }

  /** Notes whether the session exists; the facts of a missing session are not requested. */
  #setExists(exists) {
    if (exists && !this.exists) setTimeout(() => this.#facts());
    if (!exists) this.#showFacts([["state", "this session does not exist"]]);
    this.exists = exists;
  }

  #draw() {
    if (this.frame || this.session === null) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      this.columns = this.trail.window(Number($("window").value), this.output, this.input, this.twin);
      this.chart.show(this.columns);
      this.chart.fit();
      this.#legend();
      if ($("last").closest("details").open) this.#table();
    });
  }

  get output() {
    return Number($("output").value || 0);
  }

  /** Index of the input that the shown output predicts; -1 for none. */
  get input() {
    const model = this.model;
    return model ? model.inputs.findIndex((input) => input.name === model.targets[this.output]) : 0;
  }

  get model() {
    return this.view && this.models(this.view.model);
  }

  async #facts() {
    const session = this.session;
    if (session === null || !this.exists || document.hidden) return;
    try {
      const view = await call(sessionPath(session));
      if (session === this.session) this.#show(view);
    } catch (error) {
      if (error instanceof Problem && session === this.session) this.#showFacts([["state", error.message]]);
    }
  }

  #show(view) {
    const fresh = this.view?.model !== view.model;
    this.view = view;
    if (fresh) this.#outputs();
    const { errors } = view;
    const coverage = Object.entries(errors?.coverage ?? {}).find(([level]) => Number(level) === (view.level ?? 0.9));
    this.#showFacts([
      ["model", view.model],
      ["position", count(view.position)],
      ["since reset", count(view.observations_since_reset)],
      ["last prediction", view.last_prediction ? view.last_prediction.map(number).join(", ") : "–"],
      ...(errors?.mse != null ? [["RMSE", number(Math.sqrt(errors.mse))]] : []),
      ...(errors?.skill != null ? [["skill", number(errors.skill)]] : []),
      ...(coverage ? [[`in the ${coverage[0]} interval`, number(coverage[1])]] : []),
      ["last seen", ago(view.updated)],
      ["expires", view.expires ? new Date(view.expires).toLocaleString() : "never"],
    ]);
  }

  #showFacts(facts) {
    $("facts").replaceChildren(...facts.map(([name, value]) => create("div", {}, create("dt", {}, name), create("dd", {}, value))));
  }

  #outputs() {
    const targets = this.model?.targets ?? [];
    $("output-label").hidden = targets.length < 2;
    $("output").replaceChildren(...targets.map((name, i) => create("option", { value: i }, name)));
    this.#draw();
  }

  #legend() {
    const { columns } = this;
    const any = (name) => columns[name] !== columns.none;
    const names = [["observed", "observed", true], ["predicted", "predicted", true]];
    names.push(["band", `interval${this.view?.level ? ` (${this.view.level})` : ""}`, any("lower")]);
    names.push(["forecast", "forecast", any("forecast")], ["forgetful", "reset at each chunk", any("twin")]);
    const shown = names.filter(([, , visible]) => visible);
    const legend = shown.map(([, text]) => text).join();
    if (legend === this.legend) return;
    this.legend = legend;
    $("legend").replaceChildren(...shown.map(([name, text]) => create("li", {}, create("i", { className: `key ${name}` }), text)));
  }

  /** Describes the chart in words. */
  #summarise() {
    if (this.session === null || document.hidden) return;
    const { observed, predicted } = this.columns ?? {};
    const both = (observed ?? []).map((value, i) => [value, predicted[i]]).filter(([a, b]) => a !== null && b !== null);
    const text = both.length
      ? `The last ${count(both.length)} predicted observations: RMSE ${number(rmse(both))}, last observed ${number(both.at(-1)[0])}, predicted ${number(both.at(-1)[1])}.`
      : "Waiting for chunks. The server does not keep earlier observations.";
    if ($("summary").textContent !== text) $("summary").textContent = text;
    if ($("last").closest("details").open) this.#table();
  }

  #table() {
    const c = this.columns;
    const seen = c.positions.map((_, i) => i).filter((i) => c.observed[i] !== null).slice(-ROWS).reverse();
    const interval = (i) => (c.lower[i] === null ? "–" : `${number(c.lower[i])} to ${number(c.upper[i])}`);
    const row = (i) => [count(c.positions[i]), number(c.observed[i]), number(c.predicted[i]), interval(i), number(c.score[i])];
    $("last").replaceChildren(...seen.map((i) => create("tr", {}, ...row(i).map((text) => create("td", {}, text)))));
  }

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
    const view = await call(sessionPath(this.session, "/reset"), { method: "POST", body: {} });
    toast(`${this.session} was reset; its position stays ${count(view.position)}`);
  }

  async #fork() {
    const id = await ask({ title: `Fork ${this.session}`, label: "New session", value: `${this.session}-fork`, yes: "Fork" });
    if (id === null) return;
    const view = await call(sessionPath(this.session, "/fork"), { method: "POST", body: id ? { id } : {} });
    toast(`${view.session} is a copy at position ${count(view.position)}`);
  }

  async #delete() {
    const { session } = this;
    const confirmed = await ask({ title: `Delete ${session}?`, text: "Its carry is deleted and cannot be restored.", yes: "Delete" });
    if (!confirmed) return;
    this.exists = false;
    await call(sessionPath(session), { method: "DELETE" });
    this.gone();
    toast(`${session} was deleted`);
  }

  async #export() {
    const blob = await call(sessionPath(this.session, "/state"), { as: "blob" });
    const link = create("a", { href: URL.createObjectURL(blob), download: `${this.session}.safetensors` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  async #forecast() {
    const steps = Number($("steps").value);
    const level = this.view?.level ?? this.view?.learning?.levels?.[0];
    const interval = level ? `&level=${this.view.level ?? this.view.learning.levels.at(-1)}` : "";
    this.trail.forecast(await call(sessionPath(this.session, `/forecast?steps=${steps}${interval}`)));
    this.#draw();
  }
}

const rmse = (pairs) => Math.sqrt(pairs.reduce((sum, [a, b]) => sum + (a - b) ** 2, 0) / pairs.length);
