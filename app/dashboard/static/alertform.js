// The form that sets the alert of a session. The server checks what is typed, and each refusal stands at its field.

import { call, sessionPath } from "./api.js";
import { $, counted, create, toast } from "./dom.js";

const NUMBERS = ["score_above", "outside", "clear_after", "alarms_per_week"];
const FIELDS = { none: [], limit: ["score_above", "outside", "clear_after"], rate: ["alarms_per_week", "kind", "refractory", "step"] };
const HOOKED = "webhook"; // a field of every rule

export class AlertForm {
  /** `saved` is called with the session after a change. */
  constructor({ saved }) {
    this.saved = saved;
    this.form = $("alert-form");
    this.form.oninput = () => (this.isTouched = true);
    for (const rule of this.form.elements.rule) rule.onchange = () => this.#choose(rule.value);
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.#save();
    };
  }

  /** Forgets what was typed for another session. */
  open(session) {
    this.session = session;
    this.isTouched = false;
    this.#complain(null);
  }

  /** Shows the session's alert, unless the reader is changing it. */
  show(view) {
    $("alert-summary").replaceChildren(`Alert: ${inWords(view.alert)}`);
    if (view.alert_raised) $("alert-summary").append(" ", create("span", { className: "pill lost" }, "raised"));
    const keeps = view.learning !== null;
    $("alert-cannot").hidden = keeps;
    this.form.hidden = !keeps;
    if (!this.isTouched) this.#fill(view);
  }

  #fill({ alert, learning }) {
    const levels = (learning?.levels ?? []).map((level) => create("option", { value: level }, `${+(100 * level).toPrecision(6)} %`));
    this.form.elements.outside.replaceChildren(create("option", { value: "" }, "–"), ...levels);
    for (const name of [...FIELDS.limit, ...FIELDS.rate, HOOKED]) this.form.elements[name].value = alert?.[name] ?? "";
    this.form.elements.kind.value = alert?.kind ?? "any";
    if (!alert || alert.alarms_per_week !== null) this.form.elements.clear_after.value = "";
    this.#choose(alert ? (alert.alarms_per_week === null ? "limit" : "rate") : "none");
  }

  #choose(rule) {
    this.form.elements.rule.value = rule;
    for (const part of this.form.querySelectorAll("[data-rule]")) part.hidden = !part.dataset.rule.split(" ").includes(rule);
    this.#complain(null);
  }

  /** The alert that is typed in; null for none. */
  #typed() {
    const { elements } = this.form;
    const rule = elements.rule.value;
    if (rule === "none") return null;
    const given = [...FIELDS[rule], HOOKED].map((name) => [name, elements[name].value.trim()]).filter(([, text]) => text !== "");
    return Object.fromEntries(given.map(([name, text]) => [name, NUMBERS.includes(name) ? Number(text) : text]));
  }

  async #save() {
    const { session } = this;
    this.#complain(null);
    // What is no number has no value, so it would be left out.
    const bad = this.form.querySelector("[data-rule]:not([hidden]) input:invalid");
    if (bad?.validity.badInput) return this.#complain("this is not a number", bad.name);
    try {
      const view = await call(sessionPath(session), { method: "PATCH", body: { alert: this.#typed() } });
      toast(view.alert ? `${session} has an alert: ${inWords(view.alert)}` : `${session} has no alert of its own`);
      if (session !== this.session) return; // the form is about another by now
      this.isTouched = false;
      this.saved(view);
    } catch (error) {
      if (session === this.session) this.#complain(error.message, error.field?.replace(/^alert\.?/, ""));
      else toast(`The alert of ${session} is as before: ${error.message}`);
    }
  }

  /** Shows a sentence at a field, or below the form; null shows none. */
  #complain(text, name = "") {
    for (const old of this.form.querySelectorAll("small.error")) old.remove();
    for (const field of this.form.querySelectorAll("[aria-invalid]")) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
    if (text === null) return;
    const field = name && this.form.elements[name];
    const label = field && field.closest("label");
    const error = create("small", { className: "error", id: "alert-error" }, text.replace(new RegExp(`^alert\\.${name}: `), ""));
    error.setAttribute("role", "alert");
    if (!label || label.hidden) {
      this.form.append(error);
      return;
    }
    label.append(error);
    field.setAttribute("aria-invalid", "true");
    field.setAttribute("aria-describedby", error.id);
    field.focus();
  }
}

/** An alert in words. */
function inWords(alert) {
  if (!alert) return "none of its own";
  if (alert.alarms_per_week !== null) {
    const kind = alert.kind && alert.kind !== "any" ? ` (${alert.kind})` : "";
    return `${counted(alert.alarms_per_week, "alarm")} a week${kind}`;
  }
  const limits = [];
  if (alert.score_above !== null) limits.push(`surprise above ${alert.score_above}`);
  if (alert.outside !== null) limits.push(`outside the ${+(100 * alert.outside).toPrecision(6)} % interval`);
  return limits.join(", or ");
}
