// Streams a series into a session, and beside it into the same model reset at each chunk: what the carry buys.

import { call, sessionPath, socket } from "./api.js";
import { $, count, number, toast } from "./dom.js";
import { parsed, rowsFor, sent, sine, timestamps } from "./series.js";
import { Trail } from "./trail.js";

const LEVEL = 0.9;
const MOST_BYTES = 50e6;
const TWIN_SECONDS = 600; // idle, after which one that a closed page has left behind expires

export class TryIt {
  constructor({ models, panel, show }) {
    this.models = models;
    this.panel = panel;
    this.show = show; // shows a session
    this.table = null; // of a CSV; null for the sine
    this.running = null;
    $("try").onsubmit = (event) => {
      event.preventDefault();
      if (this.running) this.running.stopped = true;
      else this.#run().catch((error) => toast(error.message));
    };
    $("try-file").onchange = () => this.#take($("try-file").files[0]);
    $("try-sine").onclick = () => this.#take(null);
    const drop = $("drop");
    drop.ondragover = (event) => {
      event.preventDefault();
      drop.classList.add("over");
    };
    drop.ondragleave = () => drop.classList.remove("over");
    drop.ondrop = (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      this.#take(event.dataTransfer.files[0]);
    };
  }

  async #take(file) {
    try {
      if (file && file.size > MOST_BYTES) throw new Error("a CSV of at most 50 MB can be tried here");
      this.table = file ? parsed(await file.text()) : null;
    } catch (error) {
      toast(error.message);
      return;
    }
    $("try-file").value = "";
    $("try-sine").hidden = !file;
    $("try-source").textContent = file
      ? `${file.name}: ${count(this.table.values.length)} rows of ${this.table.names.join(", ")}`
      : "The sine. Or drop a CSV here, or choose one.";
  }

  async #run() {
    const model = this.models($("try-model").value);
    const inputs = sent(model);
    const rows = this.table ? rowsFor(inputs, this.table).rows.values() : sine(inputs.length);
    const session = `try-${Math.random().toString(36).slice(2, 8)}`;
    const run = (this.running = { stopped: false });
    this.#running(true);
    const made = [session, `${session}-forgetful`];
    try {
      await create(made[0], model.name);
      await create(made[1], model.name, { ttl_seconds: TWIN_SECONDS });
      this.show(session);
      await this.#stream(run, rows, model, ...made);
    } finally {
      this.running = null;
      this.#running(false);
      await call(sessionPath(made[1]), { method: "DELETE" }).catch(() => {});
    }
  }

  async #stream(run, rows, model, session, forgetful) {
    const lines = [await Line.open(session), await Line.open(forgetful)];
    const twin = new Trail();
    const errors = { carried: new Errors(model), forgetful: new Errors(model) };
    const size = Number($("try-chunk").value);
    const ask = (await call(sessionPath(session))).learning?.levels?.includes(LEVEL) ? { level: LEVEL, score: true } : {};
    let done = 0;
    try {
      for (let due = performance.now(); !run.stopped; due += 1000 / Number($("try-pace").value || 1)) {
        const observations = Array.from({ length: size }, () => rows.next().value).filter(Boolean);
        if (!observations.length) break;
        const chunk = { observations, ...timestamps(model, this.table, done, done + observations.length) };
        done += observations.length;
        const answers = [lines[0].send({ ...chunk, ...ask }), lines[1].send({ reset: true }), lines[1].send(chunk)];
        const [kept, , lost] = await Promise.all(answers);
        twin.first ??= kept.position - observations.length + 1;
        twin.predictions(kept.position, lost.predictions);
        if (this.panel.session === session && this.panel.twin !== twin) this.panel.compare(twin);
        errors.carried.take(observations, kept.predictions);
        errors.forgetful.take(observations, lost.predictions);
        this.#worth(errors);
        due = Math.max(due, performance.now() - 1000); // one that fell behind does not hurry after
        await pause(due + 1000 / Number($("try-pace").value || 1) - performance.now());
      }
    } finally {
      for (const line of lines) line.close();
    }
  }

  #running(is) {
    $("try-start").textContent = is ? "Stop" : "Stream";
    if (is) $("worth").hidden = true;
  }

  #worth({ carried, forgetful }) {
    $("worth").hidden = false;
    $("rmse-carried").textContent = number(carried.rmse);
    $("rmse-forgetful").textContent = number(forgetful.rmse);
    const factor = forgetful.rmse / carried.rmse;
    const text = factor > 1.05 ? `Forgetting costs a factor of ${factor.toPrecision(2)}.` : "";
    if (text !== $("factor").textContent) $("factor").textContent = text;
  }
}

/** Running squared errors of one-step predictions, whatever was not observed left out. */
class Errors {
  #places;
  #last = null;
  #sum = 0;
  #count = 0;

  constructor(model) {
    this.#places = model.targets.map((target) => model.inputs.findIndex((input) => input.name === target));
  }

  take(observations, predictions) {
    observations.forEach((row, t) => {
      const expected = t ? predictions[t - 1] : this.#last;
      this.#places.forEach((place, j) => {
        if (!expected || place < 0 || row[place] === null) return;
        this.#sum += (row[place] - expected[j]) ** 2;
        this.#count += 1;
      });
    });
    this.#last = predictions.at(-1);
  }

  get rmse() {
    return this.#count ? Math.sqrt(this.#sum / this.#count) : NaN;
  }
}

/** A socket whose answers come in the order of what was sent. */
class Line {
  static async open(session) {
    const line = new Line();
    line.waiting = [];
    line.socket = socket(sessionPath(session, "/stream"));
    await new Promise((resolve, reject) => {
      line.socket.onmessage = resolve; // the first message tells where the session is
      line.socket.onclose = () => reject(new Error("the server did not take the socket"));
    });
    line.socket.onmessage = ({ data }) => line.#answered(JSON.parse(data));
    line.socket.onclose = () => line.#lost();
    return line;
  }

  send(message) {
    const answer = new Promise((resolve, reject) => this.waiting.push({ resolve, reject }));
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
    else this.#lost();
    return answer;
  }

  close() {
    this.socket.onclose = null;
    this.socket.close();
  }

  #answered(told) {
    const { resolve, reject } = this.waiting.shift();
    if (told.status >= 400) reject(new Error(told.detail));
    else resolve(told);
  }

  #lost() {
    for (const { reject } of this.waiting.splice(0)) reject(new Error("the connection was lost"));
  }
}

/** A session with intervals where its model can keep them. */
async function create(id, model, more = {}) {
  const learning = { learning: { intervals: true }, level: LEVEL };
  await call("sessions", { method: "POST", body: { id, model, ...more, ...learning } }).catch((error) => {
    if (error.status !== 422) throw error;
    return call("sessions", { method: "POST", body: { id, model, ...more } });
  });
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
