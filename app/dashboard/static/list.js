// The table of sessions: found, ordered and paged by the server. Rows are reused, so that the keyboard focus stays.

import { call, sessionPath, tenant } from "./api.js";
import { $, ago, count, create } from "./dom.js";
import { SKILL, targetErrors } from "./errors.js";

const REFRESH_MS = 2000;
const TYPING_MS = 250;
const PAGE = 100;
const MOST_CALLS = 5; // for a page: with labels, the server's pages may be short
const MOST_ERRORS = 3; // targets whose error a row shows
const NO_ID = /[^A-Za-z0-9._:-]/g;
const ALL_TENANTS = "*";

const ORDERED_BY = { name: "id", last_seen: "when they were last seen", error: "error", surprise: "surprise" };

export class List {
  /** `example` returns the command that sends a first observation; `enter` shows a session of another tenant. */
  constructor({ failed, models, example, enter, alerts }) {
    Object.assign(this, { failed, models, example, enter, alerts });
    this.sessions = [];
    this.request = null; // the one whose answer is waited for
    this.starts = [""]; // the `cursor` of each page up to the present one
    this.next = null;
    this.order = { by: "last_seen", down: true };
    this.rows = new Map();
    this.chosen = null;
    for (const button of document.querySelectorAll("[data-sort]")) button.onclick = () => this.#orderBy(button.dataset.sort);
    $("search").oninput = $("by-label").oninput = () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.restart(), TYPING_MS);
    };
    $("by-model").onchange = () => this.restart();
    $("page-first").onclick = () => this.restart();
    $("page-before").onclick = () => this.#turn(this.starts.slice(0, -1));
    $("page-next").onclick = () => this.#turn([...this.starts, this.next]);
    // A list that takes longer than this is waited for: a newer request would have its answer ignored.
    setInterval(() => document.hidden || this.request || this.refresh(), REFRESH_MS);
  }

  choose(session) {
    this.chosen = session;
    this.absent = null;
    this.#show();
  }

  /** Shows the same sessions again, with what is known of their alerts. */
  redraw() {
    this.#show();
  }

  /** Shows the sessions of this model, or of all. */
  filter({ model = "", label = "", prefix = "" }) {
    this.#name(model);
    [$("by-model").value, $("by-label").value, $("search").value] = [model, label, prefix];
    this.restart();
  }

  /** Offers these models in the filter. */
  offer(names) {
    const chosen = $("by-model").value;
    const options = names.map((name) => create("option", { value: name }, name));
    $("by-model").replaceChildren(create("option", { value: "" }, "any"), ...options);
    this.#name(chosen);
    $("by-model").value = chosen;
  }

  /** The first page. */
  restart() {
    this.#turn([""]);
  }

  async refresh() {
    const request = (this.request = Symbol("request")); // the answer of an earlier request is ignored
    try {
      const found = await this.#load();
      if (request !== this.request) return;
      const before = new Map(this.sessions.map((row) => [row.session, row.position]));
      this.sessions = found.rows;
      this.next = found.next;
      for (const row of found.rows) row.moved = before.has(row.session) && before.get(row.session) !== row.position;
      $("total").textContent = count(found.total);
      this.known = true;
      this.#show();
      this.alerts.show(); // a row may say that one is over
      this.failed(null);
    } catch (error) {
      if (request === this.request) this.failed(error);
    } finally {
      if (request === this.request) this.request = null;
    }
  }

  #turn(starts) {
    this.starts = starts;
    this.next = null; // until the page is there: that of another order would be refused
    $("page-next").disabled = true;
    $("rows").closest(".scroll").scrollTop = 0;
    this.refresh();
  }

  /** Adds a model to the filter that is not loaded, or not yet. */
  #name(model) {
    const has = [...$("by-model").options].some(({ value }) => value === model);
    if (!has) $("by-model").append(create("option", { value: model }, model));
  }

  get #filters() {
    const query = new URLSearchParams({ limit: String(PAGE) });
    const prefix = $("search").value.replace(NO_ID, "");
    if (prefix) query.set("prefix", prefix);
    if ($("by-model").value) query.set("model", $("by-model").value);
    for (const label of $("by-label").value.split(",").map((text) => text.trim())) if (label) query.append("label", label);
    query.set("order", this.order.by);
    if (this.order.down) query.set("descending", "true");
    if (tenant.get() !== ALL_TENANTS) query.set("detail", "true"); // a session belongs to one tenant
    return query;
  }

  async #load() {
    const rows = [];
    const query = this.#filters;
    this.isFiltered = ["prefix", "model", "label"].some((name) => query.has(name));
    let [next, total] = [this.starts.at(-1), 0];
    for (let i = 0; i < MOST_CALLS && next !== null && rows.length < PAGE; i++) {
      query.set("limit", String(PAGE - rows.length));
      if (next) query.set("cursor", next);
      const answer = await call(`sessions?${query}`);
      rows.push(...answer.sessions);
      [next, total] = [answer.next, answer.total];
    }
    await this.#addChosen(rows);
    return { rows, next, total };
  }

  /** The chosen session is on every page: it may be far from what is listed here. */
  async #addChosen(rows) {
    const { chosen } = this;
    if (chosen === null || this.isFiltered || (this.starts.length === 1 && rows.length < PAGE)) return;
    if (rows.some(({ session }) => session === chosen)) return;
    if (this.absent === chosen) return;
    try {
      rows.unshift({ ...(await call(sessionPath(chosen))), pinned: true });
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) throw error;
      this.absent = chosen; // it is not requested again until it is chosen again
    }
  }

  #orderBy(name) {
    const down = this.order.by === name ? !this.order.down : name !== "name"; // a value begins with the greatest
    this.order = { by: name, down };
    for (const button of document.querySelectorAll("[data-sort]")) {
      const order = button.dataset.sort === name ? (down ? "descending" : "ascending") : "none";
      button.closest("th").setAttribute("aria-sort", order);
    }
    this.restart();
  }

  #show() {
    const wanted = this.sessions.map((row) => this.#row(row));
    const body = $("rows");
    wanted.forEach((row, i) => body.children[i] === row || body.insertBefore(row, body.children[i] ?? null));
    while (body.children.length > wanted.length) body.lastElementChild.remove();
    const names = new Set(this.sessions.map((row) => row.session));
    for (const name of this.rows.keys()) if (!names.has(name)) this.rows.delete(name);
    $("shown").textContent = count(this.sessions.length);
    $("moving").textContent = count(this.sessions.filter((row) => row.moved).length);
    this.#empty();
    this.#paging();
  }

  #empty() {
    const isEmpty = this.known && this.sessions.length === 0;
    const command = isEmpty && !this.isFiltered ? this.example() : null;
    $("none").hidden = !isEmpty;
    $("none").textContent = this.isFiltered ? "No session is like this." : "There are no sessions yet. This command sends a first observation:";
    $("first").hidden = command === null;
    if (command && $("first").textContent !== command) $("first").textContent = command;
  }

  #paging() {
    const page = this.starts.length;
    $("paging").hidden = page === 1 && this.next === null;
    const last = this.order.by === "name" ? "" : " Sessions that are not in memory come last.";
    $("page-hint").textContent = `Page ${count(page)}, by ${ORDERED_BY[this.order.by]}.${last}`;
    $("page-first").disabled = $("page-before").disabled = page === 1;
    $("page-next").disabled = this.next === null;
  }

  #row(entry) {
    let row = this.rows.get(entry.session);
    if (!row) {
      const link = create("a", { href: `#/${encodeURIComponent(entry.session)}` }, entry.session);
      if (tenant.get() === ALL_TENANTS) link.onclick = (event) => this.#enter(event, entry.session);
      const cells = Array.from({ length: 6 }, (_, i) => create("td", { className: i > 1 ? "number" : "" }));
      cells[3].title = SKILL;
      row = create("tr", {}, create("th", { scope: "row" }, link), ...cells);
      this.rows.set(entry.session, row);
    }
    const labels = Object.entries(entry.labels ?? {}).map(([name, value]) => `${name}:${value}`);
    const position = entry.position === undefined ? "–" : count(entry.position);
    const error = targetErrors(entry.errors, this.models(entry.model)).slice(0, MOST_ERRORS);
    const errors = error.map(({ name, rmse }) => (name === null ? rmse : `${name} ${rmse}`)).join("\n") || "–";
    const surprise = typeof entry.surprise === "number" ? entry.surprise.toFixed(3) : "–";
    const seen = entry.updated ? ago(entry.updated) : "–";
    [entry.model, labels.join("\n"), position, errors, surprise, seen].forEach((text, i) => {
      const cell = row.children[i + 1];
      if (cell.dataset.text === text) return;
      cell.dataset.text = text;
      if (i === 1) cell.replaceChildren(...labels.map((label) => this.#label(label)));
      else cell.textContent = text;
    });
    const isRaised = entry.alert_raised || this.alerts.isRaised(entry.session);
    if (isRaised !== row.classList.contains("raised")) this.#mark(row, isRaised);
    row.classList.toggle("moved", Boolean(entry.moved));
    row.classList.toggle("chosen", entry.session === this.chosen);
    const link = row.querySelector("a");
    if (entry.session === this.chosen) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    return row;
  }

  /** Says at a session's name that its alert is raised. */
  #mark(row, isRaised) {
    row.classList.toggle("raised", isRaised);
    row.querySelector(".pill")?.remove();
    if (isRaised) row.firstElementChild.append(create("span", { className: "pill lost" }, "alert"));
  }

  /** A label, which filters the list when it is pressed. */
  #label(label) {
    const button = create("button", { type: "button", className: "label", title: "Show sessions with this label" }, label);
    button.onclick = () => {
      $("by-label").value = label;
      this.restart();
    };
    return button;
  }

  #enter(event, name) {
    event.preventDefault();
    const [owner, session] = [name.slice(0, name.lastIndexOf("/")), name.slice(name.lastIndexOf("/") + 1)];
    this.enter(owner, session);
  }
}
