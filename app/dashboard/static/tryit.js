// Streams a series into two sessions, one of which is reset at each chunk, and compares their errors.

import { call, sessionPath, socket } from "./api.js";
import { $, count, counted, create, number, toast } from "./dom.js";
import { Errors } from "./errors.js";
import { Microphone } from "./microphone.js";
import { FEW, layOut, outputRows } from "./ports.js";
import { example, exampleInWords, timestamps } from "./series.js";
import { newText } from "./text.js";
import { Trail } from "./trail.js";

const WATCH_MS = 3000; // that a sound waits for its panel
const LEVEL = 0.9;
const POLL_MS = 50;
const LOWEST_RATE = 8000; // that browsers decode to
const TWIN_SECONDS = 600; // after this idle time, the second session of a closed page expires

// What a model can be tried with. `own`: what is streamed without a file.
const ROWS = {
  hint: "Streams a series into two sessions of the model. The second session is reset at each chunk.",
  own: (model) => `${exampleInWords(model)} Drop a CSV here, or click to choose a file.`,
  useOwn: "Use the example",
  chosen: " Its columns are found by the names of the model's inputs.",
  accept: ".csv,.tsv,.txt,.jsonl,text/csv,text/plain",
  refuses: (file) => isSound(file) && "This model takes rows of numbers: drop a CSV, or choose a model over samples.",
  start: "Stream",
};
const SOUND = {
  hint: "Sends sound to a session of the model. Its panel shows what the model hears.",
  own: () => "The microphone. Drop a WAV file here, or click to choose one.",
  useOwn: "Use the microphone",
  chosen: "",
  accept: ".wav,audio/wav",
  refuses: (file) => isTable(file) && "This model takes sound: drop a WAV file, or choose a model that takes rows.",
  start: "Stream",
};
const TEXT = {
  hint: "Opens a new session of the model. Its panel takes what the model reads, and writes on from there.",
  own: () => "",
  useOwn: "",
  chosen: "",
  accept: "",
  refuses: () => "This model reads text: press “Write”, and put the text into “Prompt”.",
  start: "Write",
};

export class TryIt {
  constructor({ models, panel, show }) {
    this.models = models;
    this.panel = panel;
    this.show = show; // shows a session by its id
    this.file = null; // null for what is streamed without a file
    this.running = null; // from the press of the button on; it can be stopped once the button says so
    this.kind = ROWS;
    this.shown = null; // the model that the form is about
    $("try-model").onchange = () => this.refresh();
    $("try").onsubmit = (event) => {
      event.preventDefault();
      if (!this.running) this.#run().catch((error) => toast(error.message));
      else if (this.running.canStop) this.running.stopped = true;
    };
    $("try-file").onchange = () => this.#take($("try-file").files[0]);
    $("try-own").onclick = () => this.#take(null);
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

  /** Fits the form to the chosen model, if that is another than before; while something runs, its model stays. */
  refresh() {
    const model = this.models($("try-model").value);
    const shown = model && `${model.name} ${model.fingerprint}`;
    if (this.running || !model || shown === this.shown) return;
    this.shown = shown;
    this.kind = model.vocabulary ? TEXT : model.samples ? SOUND : ROWS;
    $("worth").hidden = true; // the errors of another model
    $("try-hint").textContent = this.kind.hint;
    $("try-file").accept = this.kind.accept;
    $("try-own").textContent = this.kind.useOwn;
    $("try-start").textContent = this.kind.start;
    $("drop").hidden = this.kind === TEXT;
    for (const field of [$("try-chunk"), $("try-pace")])
      field.disabled = field.closest("label").hidden = this.kind !== ROWS;
    this.#take(this.file && !this.kind.refuses(this.file) ? this.file : null);
  }

  /** Takes a file to stream; null for none. */
  #take(file) {
    $("try-file").value = "";
    const refusal = file && this.kind.refuses(file);
    if (refusal) return toast(refusal);
    const model = this.models($("try-model").value);
    this.file = file ?? null;
    $("try-own").hidden = !file;
    $("try-source").textContent = file ? `${file.name}: ${counted(file.size, "byte")}.${this.kind.chosen}` : this.kind.own(model);
  }

  async #run() {
    const run = (this.running = { stopped: false, canStop: false });
    $("try-model").disabled = true;
    const model = this.models($("try-model").value);
    try {
      if (model.vocabulary) this.show(await newText(model));
      else if (model.samples) await this.#hear(run, model, this.file);
      else await this.#compare(run, model, this.file);
    } finally {
      this.running = null;
      $("try-start").textContent = this.kind.start;
      $("try-model").disabled = false;
      this.refresh(); // the model may have been loaded again meanwhile
    }
  }

  /** From now on the button stops what runs. */
  #offerStop(run) {
    run.canStop = true;
    $("try-start").textContent = "Stop";
    $("worth").hidden = true;
  }

  /** Sends a table, or the example, to two sessions, one of which is reset at each chunk. */
  async #compare(run, model, file) {
    const table = file && (await call(`models/${encodeURIComponent(model.name)}/rows`, { method: "POST", csv: file }));
    if (table) this.#describe(file, table);
    const rows = table ? table.observations.values() : example(model);
    const session = `try-${Math.random().toString(36).slice(2, 8)}`;
    this.#offerStop(run);
    const ids = [session, `${session}-forgetful`];
    try {
      await createSession(ids[0], model);
      await createSession(ids[1], model, { ttl_seconds: TWIN_SECONDS });
      this.show(session);
      await this.#stream(run, rows, table, model, ...ids);
    } finally {
      call(sessionPath(ids[1]), { method: "DELETE" }).catch(() => {}); // the button does not wait for it
    }
  }

  /** Sends a WAV file, or the microphone, to a session of a model over samples, and says where there is speech. */
  async #hear(run, model, file) {
    const session = `try-${Math.random().toString(36).slice(2, 8)}`;
    await createSession(session, model);
    this.show(session);
    if (!file) {
      await this.#listen(run, session);
      return;
    }
    const wav = new Blob([await file.arrayBuffer()]);
    await this.#drawSound(session, wav, model.samples.rate);
    // A session over samples has no history: its panel shows the segments that it is there for.
    await Promise.race([this.panel.begun, new Promise((resolve) => setTimeout(resolve, WATCH_MS))]);
    const { position, predictions, events } = await call(sessionPath(session, "/audio"), { method: "POST", wav });
    const text = `${file.name}: ${counted(position, "sample")}, ${counted(predictions?.length ?? 0, "frame")}`;
    const found = (events ?? []).map(({ event, sample }) => (event === "speech_start" ? `from ${count(sample)}` : `to ${count(sample)}`));
    this.#say(file, found.length ? `${text}; speech ${found.join(" ")}` : text);
  }

  /** Draws the sound of a file. The server may read a file that the browser cannot: it has no picture then. */
  async #drawSound(session, wav, rate) {
    const decoder = new OfflineAudioContext(1, 1, Math.max(rate, LOWEST_RATE));
    const sound = await decoder.decodeAudioData(await wav.arrayBuffer()).catch(() => null);
    if (sound && this.panel.session === session) this.panel.voice.draw(sound.getChannelData(0), sound.sampleRate);
  }

  /** Sends what the microphone hears, until it is stopped. */
  async #listen(run, session) {
    this.#offerStop(run);
    let microphone = null;
    let last = "";
    try {
      const { voice } = this.panel;
      const isShown = () => this.panel.session === session;
      const heard = (...packet) => isShown() && voice.heard(...packet);
      const answered = ({ position, rate, events, delay }) => {
        if (isShown()) voice.answered(delay);
        for (const { event, sample } of events)
          last = `; ${event === "speech_start" ? "speech since" : "the last speech ended at"} ${(sample / rate).toFixed(1)} s`;
        this.#say(null, `The microphone: ${(position / rate).toFixed(1)} s at ${count(rate)} Hz${last}`);
      };
      microphone = await Microphone.open(session, { heard, answered });
      while (!run.stopped && !microphone.error) await pause(POLL_MS);
      if (microphone.error) throw new Error(microphone.error);
    } finally {
      microphone?.close();
    }
  }

  /** Says what is known of a file, or of the microphone for null, unless the reader has taken another meanwhile. */
  #say(file, text) {
    if (file === this.file) $("try-source").textContent = text;
  }

  /** Says what of the file is streamed, and what is not. */
  #describe(file, { observations, columns, ignored, notes }) {
    const rest = ignored.length ? [`not read: ${ignored.join(", ")}`] : [];
    const text = [`${counted(observations.length, "row")} of ${columns.join(", ")}`, ...rest, ...notes].join("; ");
    this.#say(file, `${file.name}: ${text}`);
  }

  async #stream(run, rows, table, model, session, forgetful) {
    const lines = [await Line.open(session), await Line.open(forgetful)];
    const twin = new Trail();
    const names = layOut(model.inputs).flatMap((input) => input.names);
    const errors = { carried: new Errors(names, model.targets), forgetful: new Errors(names, model.targets) };
    const size = Number($("try-chunk").value);
    const extras = (await call(sessionPath(session))).learning?.levels?.includes(LEVEL) ? { level: LEVEL, score: true } : {};
    let done = 0;
    try {
      for (let due = performance.now(); !run.stopped; due += 1000 / Number($("try-pace").value || 1)) {
        const observations = Array.from({ length: size }, () => rows.next().value).filter(Boolean);
        if (!observations.length) break;
        const chunk = { observations, ...timestamps(model, table, done, done + observations.length) };
        done += observations.length;
        const answers = [lines[0].send({ ...chunk, ...extras }), lines[1].send({ reset: true }), lines[1].send(chunk)];
        const [kept, , lost] = await Promise.all(answers);
        twin.first ??= kept.position - observations.length + 1;
        const [carried, reset] = [kept, lost].map((answer) => outputRows(answer, model));
        twin.predictions(kept.position, reset);
        if (this.panel.session === session && this.panel.twin !== twin) this.panel.compare(twin);
        errors.carried.add(observations, carried);
        errors.forgetful.add(observations, reset);
        this.#showErrors(model, errors);
        due = Math.max(due, performance.now() - 1000); // after a delay, do not send faster to catch up
        await pause(due + 1000 / Number($("try-pace").value || 1) - performance.now());
      }
    } finally {
      for (const line of lines) line.close();
    }
  }

  #showErrors(model, { carried, forgetful }) {
    const [kept, lost] = [carried.rmse, forgetful.rmse];
    const compared = model.targets.map((_, j) => j).filter((j) => !Number.isNaN(kept[j])).slice(0, FEW);
    $("worth").hidden = !compared.length; // no output predicts an input
    const ports = layOut(model.outputs);
    const unit = (name) => ports.find((port) => port.names.includes(name))?.unit;
    const row = (j) => {
      const name = model.targets[j];
      const title = create("th", { scope: "row" }, name, ...(unit(name) ? [` (${unit(name)})`] : []));
      return create("tr", {}, title, create("td", {}, number(kept[j])), create("td", {}, number(lost[j])));
    };
    $("rmse").replaceChildren(...compared.map(row));
    const factors = compared.map((j) => lost[j] / kept[j]).filter((factor) => factor > 1.05 && Number.isFinite(factor));
    const range = [...new Set([Math.min(...factors), Math.max(...factors)].map((factor) => factor.toPrecision(2)))];
    const text = factors.length ? `Without the carry, the error is ${range.join(" to ")} times as large.` : "";
    if (text !== $("factor").textContent) $("factor").textContent = text;
  }
}

/** A socket whose answers come in the order of the messages. */
class Line {
  static async open(session) {
    const line = new Line();
    line.waiting = [];
    line.socket = socket(sessionPath(session, "/stream"));
    await new Promise((resolve, reject) => {
      line.socket.onmessage = resolve; // the first message has the position of the session
      line.socket.onclose = () => reject(new Error("the server refused the socket"));
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

  #answered(message) {
    const { resolve, reject } = this.waiting.shift();
    if (message.status >= 400) reject(new Error(message.detail));
    else resolve(message);
  }

  #lost() {
    for (const { reject } of this.waiting.splice(0)) reject(new Error("the connection was lost"));
  }
}

/** Creates a session, with intervals if its model supports them. */
async function createSession(id, model, more = {}) {
  const body = { id, model: model.name, ...more };
  const create = (fields) => call("sessions", { method: "POST", body: { ...body, ...fields } });
  const inputs = model.inputs.map(({ name }) => name);
  if (!model.architecture || !model.targets.every((name) => inputs.includes(name))) return create({}); // it cannot learn
  return create({ learning: { intervals: true }, level: LEVEL }).catch((error) => {
    if (error.status !== 422) throw error;
    return create({});
  });
}

const isSound = ({ name, type }) => /\.wav$/i.test(name) || type.startsWith("audio/");
const isTable = ({ name }) => /\.(csv|tsv|txt|jsonl)$/i.test(name);

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
