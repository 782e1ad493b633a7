// Puts the parts together: models, list, panel, and what the address says is shown.

import { call, key } from "./api.js";
import { $, ask, count, made, toast } from "./dom.js";
import { List } from "./list.js";
import { Panel } from "./panel.js";
import { TryIt } from "./tryit.js";

const MODELS_MS = 10_000;

let models = new Map();
let asking = false;

const model = (name) => models.get(name) ?? null;
const shown = () => decodeURIComponent(location.hash.replace(/^#\/?/, "")) || null;
const show = (session) => (location.hash = session ? `/${encodeURIComponent(session)}` : "/");

const list = new List({ failed });
const panel = new Panel({ models: model, moved: () => list.refresh(), gone: () => show(null) });
new TryIt({ models: model, panel, show: (session) => (show(session), open()) });

addEventListener("hashchange", open);
$("use-key").onclick = () => askKey("The key is kept in this tab only, until it is closed.");
setInterval(() => document.hidden || loadModels(), MODELS_MS);
begin();

async function begin() {
  await loadModels();
  await list.refresh();
  open();
}

function open() {
  if (location.hash === "#detail") return; // the skip link's
  const session = shown();
  panel.open(session);
  list.choose(session);
}

async function loadModels() {
  try {
    const told = (await call("models")).models;
    models = new Map(told.map((one) => [one.name, one]));
    showModels(told);
  } catch (error) {
    failed(error);
  }
}

function showModels(told) {
  $("models").replaceChildren(...told.map(card));
  const select = $("try-model");
  const before = select.value || told.find((one) => one.default)?.name;
  select.replaceChildren(...told.map((one) => made("option", { value: one.name, selected: one.name === before }, one.name)));
}

function card(one) {
  const inputs = one.inputs.map(({ name, unit }) => (unit ? `${name} (${unit})` : name)).join(", ");
  return made(
    "li", {},
    made("b", {}, one.name), one.default ? " (default)" : "",
    made("span", {}, `${inputs} → ${one.targets.join(", ")}; LSTM ${one.hidden_size} × ${one.num_layers}`),
    made("span", {}, `${held(one)}${count(one.carry_bytes)} bytes a session`),
    made("span", {}, one.fingerprint.slice(0, 12)),
  );
}

/** How many sessions it has; untold where the key may not know of other tenants'. */
function held({ sessions_resident: resident }) {
  return resident === null ? "" : `${count(resident)} ${resident === 1 ? "session" : "sessions"} in memory, `;
}

/** Tells of a refresh that failed, or with null that all is well. */
function failed(error) {
  if (error?.status === 401) askKey("This server wants an API key.");
  const link = $("link");
  if (error === null && panel.session === null) [link.className, link.textContent] = ["pill live", "live"];
  else if (error) [link.className, link.textContent] = ["pill lost", error.status ? error.message : "server not reached"];
}

async function askKey(text) {
  if (asking) return;
  asking = true;
  const typed = await ask({ title: "API key", text, label: "Key", yes: "Use it", secret: true });
  asking = false;
  if (typed === null) return;
  key.set(typed);
  toast(typed ? "The key is used from now on" : "No key is used");
  await begin();
}
