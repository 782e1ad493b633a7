// A session of a model of text: its text, what is written next, and branches of it.

import { call, Problem, sessionPath, stream, Unreached } from "./api.js";
import { $, ask, count, counted, create, toast } from "./dom.js";

const RETRY_MS = 1000;
const FEED = 500; // tokens of a chunk: its answer has the logits of each
const QUOTED = 40; // characters of the text that a question repeats
const SETTINGS = ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"];
const KINDS = { earlier: "earlier", prompt: "prompt", written: "written", copy: "on a copy" };

export class TextPane {
  /** `show` opens a session, `isShown` says whether it is open; `moved` is called when there is a new one. */
  constructor({ show, isShown, moved }) {
    Object.assign(this, { show, isShown, moved, session: null, model: null, writing: null });
    this.#clear(0);
    $("writing").onsubmit = (event) => {
      event.preventDefault();
      if (this.writing) this.writing.abort();
      else this.#write();
    };
    $("text").onclick = (event) => this.#clicked(event);
    $("branch-at").oninput = () => this.#mark(Number($("branch-at").value));
    $("branch-at").onkeydown = (event) => event.key === "Enter" && $("branch").click();
    $("branch").onclick = () => this.#branch().catch((error) => toast(error.message));
    for (const input of $("pane").querySelectorAll("input[type=range]")) {
      input.oninput = () => showSetting(input);
      showSetting(input);
    }
  }

  /** Shows the text of another session; `model` is null for one that writes no text. */
  open(session, model) {
    if (session === this.session && model?.name === this.model?.name) return;
    this.writing?.abort();
    Object.assign(this, { session, model, epoch: null, position: 0, writing: null }); // the run says no more here
    this.#buttons();
    this.#clear(0);
    this.#say("");
    if (model) {
      $("top_k").max = model.vocabulary;
      this.#again(); // the watch may have begun before the model was known
    }
    this.#draw();
  }

  /** What the session has observed when the page begins to watch it. */
  begin({ position, epoch, history }) {
    const from = history?.from ?? 0;
    if (epoch !== this.epoch) [this.position, this.epoch] = [0, epoch];
    else if (from <= this.end) return this.#begin(position, history); // it may be older than what has come since
    this.#clear(from);
    this.#begin(position, history);
  }

  #begin(position, history) {
    this.position = Math.max(this.position, position ?? 0);
    history?.pieces?.forEach((piece, i) => this.#put(history.from + i + 1, history.observations[i][0], piece, "earlier"));
    this.#draw();
  }

  /** An event of the session. */
  received(event) {
    if (event.event === "alert" || event.event === "clear") return;
    if (event.event === "text") this.#others(event);
    else if (event.event === "chunk") this.#again();
    else this.#clear(event.position ?? 0);
    this.epoch = event.epoch ?? null; // none of a session that is gone
    this.position = this.epoch === null ? 0 : event.position;
    this.#draw();
  }

  /** A part of a text, which this page or another client has asked for. */
  #others({ position, observations, pieces, prompt }) {
    const first = position - pieces.length;
    if (first > this.end) this.#clear(first); // the events between were missed
    pieces.forEach((piece, i) => this.#put(first + i + 1, observations[i][0], piece, i < prompt ? "prompt" : "written"));
  }

  /** Reads the history anew: a chunk has tokens, and not what they stand for. */
  async #again() {
    this.isBehind = true; // also of what is being read: it may be from before this
    if (this.reading) return;
    this.reading = true;
    try {
      while (this.isBehind && this.model) await this.#readHistory();
    } finally {
      this.reading = false;
    }
  }

  async #readHistory() {
    const { session } = this;
    this.isBehind = false;
    try {
      const { position, epoch, ...history } = await call(sessionPath(session, "/history"));
      if (session === this.session) this.begin({ position, epoch, history });
    } catch (error) {
      // There is no such session (any more), or no server: the list says so, and the watch begins anew.
      if (!(error instanceof Problem || error instanceof Unreached)) throw error;
    }
  }

  /** Notes the token at a position; of one that is known, what it is called stays. */
  #put(position, token, text, kind) {
    const at = position - this.first - 1;
    if (at < 0) return;
    const known = this.tokens[at];
    this.tokens[at] = { token, text, kind: known && kind === "earlier" ? known.kind : kind };
  }

  #clear(first) {
    this.first = first; // the position before the first token
    this.tokens = []; // by position; `token` is null while only the text is known
    this.copy = "";
    this.branchAt = null;
  }

  /** The position behind the last token that is known. */
  get end() {
    return this.first + this.tokens.length;
  }

  // --- writing

  async #write() {
    const run = (this.writing = new AbortController());
    const keep = !$("on-copy").checked;
    const body = { ...settings(), keep, at: this.position, ...(this.epoch && { epoch: this.epoch }) };
    this.#buttons();
    this.copy = keep ? "" : body.prompt ?? "";
    this.#mark(null);
    this.#say("Writing.");
    let written = 0;
    try {
      for await (const { position, text, token, finish } of this.#tokens(body, run.signal)) {
        if (run.signal.aborted) break;
        if (finish) {
          this.#say(`${finish === "stop" ? "The text came to its stop" : "Done"}: ${counted(written, "token")}${keep ? "" : " on a copy"}.`);
          $("prompt").value = keep ? "" : $("prompt").value;
          continue;
        }
        written += 1;
        if (keep) this.#own(position, token, text, body);
        else this.copy += text;
        this.#draw();
      }
      if (run === this.writing && run.signal.aborted) this.#say(`Stopped after ${counted(written, "token")}.`);
    } catch (error) {
      if (run === this.writing) this.#say(error.message);
      toast(error.message);
    } finally {
      if (run === this.writing) this.writing = null;
      this.#buttons();
      this.moved();
    }
  }

  /** A token that this page has asked for. Until the watch says more, the prompt before it is one piece. */
  #own(position, token, text, { prompt, at }) {
    if (prompt && this.end < position - 1 && this.end === at) {
      this.#put(at + 1, null, prompt, "prompt");
      for (let next = at + 2; next < position; next++) this.#put(next, null, "", "prompt");
    }
    if (this.end >= position - 1) this.#put(position, token, text, "written");
  }

  /** The tokens, each once, and at last the end. A lost connection goes on behind the last that came. */
  async *#tokens(body, signal) {
    const path = sessionPath(this.session, "/generate");
    let [last, reached] = [null, body.at];
    while (!signal.aborted) {
      try {
        const request = { method: "POST", body, last, signal };
        for await (const events of stream(path, request))
          for (const { id, event, data } of events) {
            if (event === "error") throw new Problem(data.status, data);
            last = id;
            if (data.finish || data.position > reached) yield data;
            reached = Math.max(reached, data.position);
            if (data.finish) return;
          }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Problem && error.status < 500) throw error;
      }
      if (signal.aborted) return;
      this.#say("The connection was lost. Trying again.");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  #buttons() {
    $("write").textContent = this.writing ? "Stop" : "Write";
    $("write").classList.toggle("primary", !this.writing);
  }

  #say(text) {
    if ($("text-status").textContent !== text) $("text-status").textContent = text;
  }

  // --- branching

  #clicked(event) {
    const at = caret(event.clientX, event.clientY);
    const run = at?.node.parentElement;
    if (!run?.dataset.first || getSelection().toString()) return; // a copy, or the reader selects text
    let [position, left] = [Number(run.dataset.first), at.offset];
    while (left > 0 && position < this.end) left -= this.tokens[position++ - this.first].text.length;
    this.#mark(position);
    $("branch").focus({ preventScroll: true });
  }

  /** Marks where a branch would begin; null for nowhere. */
  #mark(position) {
    this.branchAt = position > this.first && position <= this.end ? position : null;
    if (position !== null) $("branch-at").value = position;
    this.#draw();
  }

  /**
   * A session with the state that this one had at the position.
   *
   * The present state is copied. An earlier one is made by a new session that reads the same tokens.
   * The reader may open another session meanwhile: then nothing more is asked, and that session stays open.
   */
  async #branch() {
    const { session, first } = this;
    const at = this.branchAt ?? this.end;
    const known = this.tokens.slice(0, at - first);
    const { position, observations_since_reset: since, model } = await call(sessionPath(session));
    if (!this.isShown(session)) return;
    const begin = position - since;
    const tokens = known.slice(Math.max(0, begin - first)).map(({ token }) => token);
    if (at !== position && (begin < first || at <= begin || tokens.includes(null)))
      throw new Error(`The beginning of this text is no longer known here. A branch is possible at ${count(position)}, its end.`);
    const how =
      at === position
        ? "The new session is a copy of the present state."
        : `A new session reads the ${counted(tokens.length, "token")} up to here, so it has the state that this session had.`;
    const before = known.map(({ text }) => text).join("").slice(-QUOTED);
    const id = await ask({ title: `Branch behind “…${before}”`, text: how, label: "New session", value: `${session}-${at}`, yes: "Branch" });
    if (!id) return;
    if (at === position) await call(sessionPath(session, "/fork"), { method: "POST", body: { id, at } });
    else await read(id, model, tokens);
    this.moved();
    if (this.isShown(session)) this.show(id);
    else toast(`${id} is a branch of ${session} at ${count(at)}`);
  }

  // --- drawing

  #draw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#render();
    });
  }

  #render() {
    const host = $("text");
    const follows = host.scrollTop + host.clientHeight > host.scrollHeight - 30;
    const runs = [];
    this.tokens.forEach(({ text, kind }, i) => {
      const behind = this.branchAt !== null && this.first + i >= this.branchAt;
      const last = runs.at(-1);
      if (last?.kind === kind && last.behind === behind) last.text += text;
      else runs.push({ kind, behind, text, first: this.first + i });
    });
    const spans = runs.map(({ kind, behind, text, first }) => {
      const span = create("span", { className: behind ? `${kind} behind` : kind }, text);
      span.dataset.first = first;
      return span;
    });
    host.replaceChildren(...spans, ...(this.copy ? [create("span", { className: "copy" }, this.copy)] : []));
    if (follows) host.scrollTop = host.scrollHeight;
    $("text-empty").hidden = this.tokens.length > 0 || this.copy !== "";
    host.hidden = !$("text-empty").hidden;
    $("branching").hidden = !this.tokens.length || this.writing !== null || this.epoch === null; // of one that is gone
    [$("branch-at").min, $("branch-at").max] = [this.first + 1, this.end];
    if (this.branchAt === null && document.activeElement !== $("branch-at")) $("branch-at").value = this.end;
    $("branch").disabled = !(Number($("branch-at").value) > this.first);
    const seen = new Set([...runs.map(({ kind }) => kind), ...(this.copy ? ["copy"] : [])]);
    $("text-legend").replaceChildren(...Object.entries(KINDS).filter(([kind]) => seen.has(kind)).map(([kind, name]) => create("li", { className: kind }, name)));
  }
}

/** A new session that reads these tokens. */
async function read(id, model, tokens) {
  await call("sessions", { method: "POST", body: { id, model } });
  for (let at = 0; at < tokens.length; at += FEED) {
    const observations = tokens.slice(at, at + FEED).map((token) => [token]);
    await call(sessionPath(id, "/observations"), { method: "POST", body: { observations, at } });
  }
}

/** A new session of a model of text; returns its id. */
export async function newText(model) {
  const id = `text-${Math.random().toString(36).slice(2, 8)}`;
  await call("sessions", { method: "POST", body: { id, model: model.name } });
  return id;
}

function settings() {
  const numbers = SETTINGS.map((name) => [name, Number($(name).value)]);
  const [prompt, seed] = [$("prompt").value, $("seed").value];
  return {
    steps: Number($("length").value),
    ...Object.fromEntries(numbers.filter(([name, value]) => name === "temperature" || value !== Number($(name).dataset.off))),
    ...(prompt && { prompt }),
    ...(seed !== "" && { seed: Number(seed) }),
  };
}

function showSetting(input) {
  const isOff = input.dataset.off !== undefined && input.value === input.dataset.off;
  $(`${input.id}-value`).textContent = isOff ? "off" : input.value;
  input.setAttribute("aria-valuetext", $(`${input.id}-value`).textContent);
}

/** The text node and the offset of the character under a point. */
function caret(x, y) {
  const found = document.caretPositionFromPoint?.(x, y);
  if (found) return { node: found.offsetNode, offset: found.offset };
  const range = document.caretRangeFromPoint?.(x, y); // Safari
  return range ? { node: range.startContainer, offset: range.startOffset } : null;
}
