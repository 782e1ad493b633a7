// Helpers for the document. Text is never set as HTML.

export const $ = (id) => document.getElementById(id);

/** A new element with these properties and children. */
export function create(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const number = (value, digits = 5) =>
  value === null || value === undefined || Number.isNaN(value)
    ? "–"
    : Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3)
      ? value.toExponential(2)
      : value.toLocaleString("en", { maximumSignificantDigits: digits });

export const count = (value) => (value ?? 0).toLocaleString("en");

/** A number with its noun, such as `1 session` or `2 sessions`. */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** A number with its unit, if it has one. */
export const measured = (value, unit, digits) => `${number(value, digits)}${unit && value !== null ? ` ${unit}` : ""}`;

/** A time (seconds since 1970) in the reader's own time zone, to the second. */
export function clock(seconds) {
  const time = new Date(seconds * 1000);
  return `${day(time, true)} ${time.toLocaleTimeString("en-GB")}`;
}

export const day = (time, withYear = false) =>
  time.toLocaleDateString("en-GB", { day: "numeric", month: "short", ...(withYear && { year: "numeric" }) });

/** The time since `time`, such as `5 min ago`. */
export function ago(time, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  if (Number.isNaN(seconds)) return "–";
  if (seconds < 2) return "now";
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const [size, unit] = units.find(([size]) => seconds >= size);
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

let hiding;
export function toast(text) {
  $("toast").textContent = text;
  clearTimeout(hiding);
  hiding = setTimeout(() => ($("toast").textContent = ""), 6000);
}

/** Shows a dialog: resolves to the text, or to true without an input, or to null when it was cancelled. */
export function ask({ title, text = "", label = null, value = "", yes = "OK", secret = false, danger = false }) {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-label").hidden = label === null;
  $("ask-name").textContent = label ?? "";
  $("ask-input").type = secret ? "password" : "text";
  $("ask-input").value = value;
  $("ask-yes").textContent = yes;
  $("ask-yes").className = danger ? "danger solid" : "primary";
  const dialog = $("ask");
  dialog.returnValue = "";
  dialog.showModal();
  if (danger) $("ask-no").focus(); // so that Enter alone destroys nothing
  return new Promise((resolve) => {
    $("ask-no").onclick = () => dialog.close("");
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      dialog.close("yes");
    };
    dialog.onclose = () => {
      const typed = $("ask-input").value.trim();
      $("ask-input").value = "";
      resolve(dialog.returnValue === "yes" ? (label === null ? true : typed) : null);
    };
  });
}
