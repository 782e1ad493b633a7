// The alerts of all sessions, as they are raised and cleared: each once, also over lost connections.

import { isRefused, stream, tenant } from "./api.js";
import { $, ago, count, create } from "./dom.js";

const RETRY_MS = 1500;
const AGO_MS = 10_000;
const MOST = 1000; // as many as the server remembers
const MOST_SHOWN = 50;
const BEFORE_ALL = "0"; // behind it are all that the server remembers
const ALL_TENANTS = "*";

export class Alerts {
  /** `changed` is called after events; `row(name)` returns a session of the list; `enter` shows one of another tenant. */
  constructor({ changed, row, enter }) {
    Object.assign(this, { changed, row, enter });
    this.#clear();
    // A browser opens few connections to a server, so a tab that nobody looks at gives its own back.
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#stop() : this.#start()));
    setInterval(() => document.hidden || this.show(), AGO_MS);
  }

  /** Begins anew, with another key or tenant. */
  restart() {
    this.#stop();
    this.#clear();
    this.show();
    this.#start();
  }

  /**
   * Where the alerts of a session were raised, and where they were over: null while they are raised, or where
   * that is not known.
   */
  spans(name, epoch) {
    return this.alerts.filter((alert) => alert.name === name && alert.epoch === epoch);
  }

  /** Whether the last that is known of a session is an alert. */
  isRaised(name) {
    return this.#isRaised(this.alerts.findLast((alert) => alert.name === name));
  }

  show() {
    const shown = this.alerts.slice(-MOST_SHOWN).reverse();
    $("alerts-part").hidden = !shown.length;
    const texts = JSON.stringify(shown.map((alert) => [alert.id, this.#isRaised(alert), ago(alert.time)]));
    if (texts === this.shown) return; // so that the keyboard focus stays
    this.shown = texts;
    $("alerts").replaceChildren(...shown.map((alert) => this.#item(alert)));
  }

  #item(alert) {
    const { name, position, time, cause } = alert;
    const link = create("a", { href: `#/${encodeURIComponent(alert.session)}` }, name);
    if (tenant.get() === ALL_TENANTS)
      link.onclick = (event) => {
        event.preventDefault();
        this.enter(alert.tenant, alert.session);
      };
    const raised = this.#isRaised(alert);
    const state = create("span", { className: raised ? "pill lost" : "pill" }, raised ? "raised" : "over");
    const when = create("small", { title: new Date(time).toLocaleString() }, `position ${count(position)}, ${ago(time)}`);
    return create("li", {}, state, link, create("span", { className: "cause" }, cause ?? ""), when);
  }

  /** A reset and a change of the rule clear an alert without an event: then the list of sessions says so. */
  #isRaised(alert) {
    if (!alert || alert.end !== null) return false;
    const row = this.row(alert.name);
    const isOld = row?.alert_raised === false && row.position >= alert.position;
    return !isOld && this.alerts.findLast(({ name }) => name === alert.name) === alert;
  }

  #clear() {
    this.alerts = []; // in the order in which they were raised
    this.known = new Set(); // ids of events
    this.last = BEFORE_ALL;
    this.shown = "";
  }

  #stop() {
    this.reading?.abort();
    this.reading = null;
    clearTimeout(this.retry);
  }

  async #start() {
    if (this.reading || document.hidden || isRefused()) return;
    const reading = (this.reading = new AbortController());
    try {
      for await (const events of stream("events", { last: this.last, signal: reading.signal })) {
        if (this.reading !== reading) break;
        this.#read(events);
      }
    } catch (error) {
      if (this.reading === reading && [401, 403].includes(error.status)) return; // until there is another key
    }
    if (this.reading !== reading) return;
    this.reading = null;
    this.retry = setTimeout(() => this.#start(), RETRY_MS);
  }

  #read(events) {
    const added = events.map(({ data }) => data).filter((event) => this.#add(event));
    if (!added.length) return;
    this.show();
    this.changed();
  }

  /** Notes an event; returns whether it is new. */
  #add(event) {
    if (this.known.has(event.id)) return false;
    this.known.add(event.id);
    this.last = event.id;
    const name = event.tenant === undefined ? event.session : `${event.tenant}/${event.session}`;
    if (event.event === "alert") {
      this.alerts.push({ ...event, name, end: null });
      if (this.alerts.length > MOST) this.known.delete(this.alerts.shift().id);
    } else {
      const raised = this.alerts.findLast((alert) => alert.name === name && alert.epoch === event.epoch);
      if (raised) raised.end ??= event.position;
    }
    return true;
  }
}
