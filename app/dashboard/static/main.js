// Connects the parts of the page. The address names the session or the model that is shown.

import { call, key } from "./api.js";
import { $, ask, count, create, toast } from "./dom.js";
import { List } from "./list.js";
import { modelAddress, ModelPage, network, shownModel } from "./model.js";
import { Panel } from "./panel.js";
import { layOut } from "./ports.js";
import { TryIt } from "./tryit.js";

const MODELS_MS = 10_000;

let models = new Map();
let asking = false;

const model = (name) => models.get(name) ?? null;
const shown = () => (shownModel() === null && decodeURIComponent(location.hash.replace(/^#\/?/, ""))) || null;
const show = (session) => (location.hash = session ? `/${encodeURIComponent(session)}` : "/");

const list = new List({ failed });
const panel = new Panel({ models: model, moved: () => list.refresh(), gone: () => show(null) });
const modelPage = new ModelPage({ sessions: () => list.sessions });
new TryIt({ models: model, panel, show: (session) => (show(session), open()) });

addEventListener("hashchange", open);
$("use-key").onclick = () => askKey("The key is kept in this tab only, until the tab is closed.");
setInterval(() => document.hidden || loadModels(), MODELS_MS);
start();

async function start() {
  await loadModels();
  await list.refresh();
  open();
}

function open() {
  if (location.hash === "#detail") return; // the skip link's
  const session = shown();
  panel.open(session);
  list.choose(session);
  openModel();
  if (shownModel() !== null) loadModels(); // the number of its sessions may be old
}

function openModel() {
  const name = shownModel();
  $("detail").hidden = name !== null;
  modelPage.open(name, model(name));
}

async function loadModels() {
  try {
    const list = (await call("models")).models;
    models = new Map(list.map((model) => [model.name, model]));
    showModels(list);
    openModel();
  } catch (error) {
    failed(error);
  }
}

function showModels(list) {
  $("models").replaceChildren(...list.map(card));
  const select = $("try-model");
  const before = select.value || list.find((model) => model.default)?.name;
  const option = ({ name }) => create("option", { value: name, selected: name === before }, name);
  select.replaceChildren(...list.map(option));
}

function card(model) {
  return create(
    "li", {},
    create("a", { href: modelAddress(model.name) }, model.name), model.default ? " (default)" : "",
    create("span", {}, `${ports(model.inputs)} → ${ports(model.outputs)}; ${network(model)}`),
    create("span", {}, `${residents(model)}${count(model.carry_bytes)} bytes per session`),
    create("span", {}, model.fingerprint.slice(0, 12)),
  );
}

function ports(list) {
  const words = ({ name, unit, size }) => `${name}${size > 1 ? ` × ${count(size)}` : ""}${unit ? ` (${unit})` : ""}`;
  return layOut(list).map(words).join(", ");
}

/** The number of sessions in memory; empty if the key may not see other tenants. */
function residents({ sessions_resident: resident }) {
  return resident === null ? "" : `${count(resident)} ${resident === 1 ? "session" : "sessions"} in memory, `;
}

/** Shows the error of a failed refresh; null means that the refresh succeeded. */
function failed(error) {
  if (error?.status === 401) askKey("This server needs an API key.");
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
  await start();
}
