// The table of sessions: searched by the server, sorted here. Rows are reused, so that the keyboard focus stays.

import { call } from "./api.js";
import { $, ago, count, create, number } from "./dom.js";

const REFRESH_MS = 2000;
const TYPING_MS = 250;
const PAGES = 10; // of 100
const NO_ID = /[^A-Za-z0-9._:-]/g;

const VALUE = {
  session: (row) => row.session,
  model: (row) => row.model,
  position: (row) => row.position ?? -1,
  error: (row) => row.errors?.mse ?? Infinity,
  updated: (row) => row.updated ?? "",
};

export class List {
  constructor({ failed }) {
    this.failed = failed;
    this.sessions = [];
    this.pages = 1;
    this.sort = { by: "updated", down: true };
    this.rows = new Map();
    this.chosen = null;
    for (const button of document.querySelectorAll("[data-sort]")) button.onclick = () => this.#sortBy(button.dataset.sort);
    $("search").oninput = () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.refresh(), TYPING_MS);
    };
    $("more").onclick = () => {
      this.pages = Math.min(PAGES, this.pages + 1);
      this.refresh();
    };
    setInterval(() => document.hidden || this.refresh(), REFRESH_MS);
  }

  choose(session) {
    this.chosen = session;
    this.#show();
  }

  async refresh() {
    const request = (this.request = Symbol("request")); // the answer of an earlier request is ignored
    try {
      const found = await this.#load($("search").value.replace(NO_ID, ""));
      if (request !== this.request) return;
      const before = new Map(this.sessions.map((row) => [row.session, row.position]));
      this.sessions = found.rows;
      for (const row of found.rows) row.moved = before.has(row.session) && before.get(row.session) !== row.position;
      $("total").textContent = count(found.total);
      $("more").hidden = !found.next || this.pages === PAGES;
      this.#show();
      this.failed(null);
    } catch (error) {
      if (request === this.request) this.failed(error);
    }
  }

  async #load(prefix) {
    const rows = [];
    let after = "";
    for (let page = 0; page < this.pages; page++) {
      const query = new URLSearchParams({ detail: "true", limit: "100", prefix, after });
      const answer = await call(`sessions?${query}`);
      rows.push(...answer.sessions);
      if (!answer.next || page === this.pages - 1) return { rows, next: answer.next, total: answer.total };
      after = answer.next;
    }
  }

  #sortBy(name) {
    const down = this.sort.by === name ? !this.sort.down : name === "updated" || name === "position";
    this.sort = { by: name, down };
    for (const button of document.querySelectorAll("[data-sort]")) {
      const order = button.dataset.sort === name ? (down ? "descending" : "ascending") : "none";
      button.closest("th").setAttribute("aria-sort", order);
    }
    this.#show();
  }

  #show() {
    const value = VALUE[this.sort.by];
    const sign = this.sort.down ? -1 : 1;
    const order = (a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : a.session < b.session ? -1 : 1);
    const wanted = [...this.sessions].sort(order).map((row) => this.#row(row));
    const body = $("rows");
    wanted.forEach((row, i) => body.children[i] === row || body.insertBefore(row, body.children[i] ?? null));
    while (body.children.length > wanted.length) body.lastElementChild.remove();
    const names = new Set(this.sessions.map((row) => row.session));
    for (const name of this.rows.keys()) if (!names.has(name)) this.rows.delete(name);
    $("shown").textContent = count(this.sessions.length);
    $("moving").textContent = count(this.sessions.filter((row) => row.moved).length);
    $("none").hidden = this.sessions.length > 0;
    $("none").textContent = $("search").value ? "No session id begins with this." : "There are no sessions yet.";
  }

  #row(entry) {
    let row = this.rows.get(entry.session);
    if (!row) {
      const link = create("a", { href: `#/${encodeURIComponent(entry.session)}` }, entry.session);
      const cells = Array.from({ length: 4 }, (_, i) => create("td", { className: i ? "number" : "" }));
      row = create("tr", {}, create("th", { scope: "row" }, link), ...cells);
      this.rows.set(entry.session, row);
    }
    const error = entry.errors?.mse == null ? "–" : number(Math.sqrt(entry.errors.mse));
    [entry.model, count(entry.position), error, ago(entry.updated)].forEach((text, i) => {
      const cell = row.children[i + 1];
      if (cell.textContent !== text) cell.textContent = text;
    });
    row.classList.toggle("moved", Boolean(entry.moved));
    row.classList.toggle("chosen", entry.session === this.chosen);
    const link = row.querySelector("a");
    if (entry.session === this.chosen) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    return row;
  }
}
