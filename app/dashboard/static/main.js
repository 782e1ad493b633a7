// Connects the parts of the page. The address names the session or the model that is shown.

import { Alerts } from "./alerts.js";
import { call, isRefused, key, retryKey, tenant } from "./api.js";
import { $, ask, count, counted, create, toast } from "./dom.js";
import { List } from "./list.js";
import { curl, decoded, LIST, modelAddress, ModelPage, network, shownModel } from "./model.js";
import { Panel } from "./panel.js";
import { layOut } from "./ports.js";
import { newText } from "./text.js";
import { TryIt } from "./tryit.js";

const MODELS_MS = 10_000;
const NARROW = matchMedia("(max-width: 60rem)"); // as in style.css
const ALL_TENANTS = "*";
const MOST_TENANTS = 200;

let models = new Map();
let asking = false;
let opening = false; // a new text
let asked; // the key, or null for none, that the reader was told about

const model = (name) => models.get(name) ?? null;
const shown = () => (shownModel() === null && !location.hash.startsWith(LIST) && decoded(location.hash.replace(/^#\/?/, ""))) || null;
const show = (session) => (location.hash = session ? `/${encodeURIComponent(session)}` : "/");

const alerts = new Alerts({ changed: alerted, row: (name) => list.sessions.find(({ session }) => session === name), enter });
const list = new List({ failed, models: model, example, enter, alerts });
const panel = new Panel({ models: model, moved: () => list.refresh(), gone: () => show(null), show, alerts });
const modelPage = new ModelPage({ sessions: () => list.sessions, changed: () => loadModels() });
const tryIt = new TryIt({ models: model, panel, show: (session) => (show(session), open()) });

addEventListener("hashchange", open);
$("use-key").onclick = () => askKey("The key is kept in this tab only, until the tab is closed.");
$("tenant").onchange = () => {
  tenant.set($("tenant").value || null);
  show(null);
  restart();
};
$("new-text").onclick = openText;
setInterval(() => document.hidden || loadModels(), MODELS_MS);
start();

async function start() {
  await loadModels();
  alerts.restart();
  await list.refresh();
  open();
  await offerTenants();
}

/** The first model that writes text. */
const writer = () => [...models.values()].find(({ vocabulary }) => vocabulary);

/** Opens a new text. A second press, before the first has its answer, opens no other. */
async function openText() {
  if (opening) return;
  opening = true;
  try {
    show(await newText(writer()));
  } catch (error) {
    toast(error.message);
  } finally {
    opening = false;
  }
}

/** The command that sends a first observation to this server. */
function example() {
  const first = [...models.values()].find((model) => model.default) ?? models.values().next().value;
  return first ? curl(first) : null;
}

function alerted() {
  list.redraw();
  panel.redraw();
}

function open() {
  if (location.hash === "#detail") return; // the skip link's
  if (location.hash.startsWith(LIST)) return openList();
  const session = shown();
  const arrives = session !== null && session !== panel.session;
  panel.open(session);
  if (arrives && NARROW.matches) requestAnimationFrame(() => $("detail").scrollIntoView({ block: "start" }));
  list.choose(session);
  openModel();
  if (shownModel() !== null) loadModels(); // the number of its sessions may be old
}

/** The list with the filters in the address, such as `#list?model=boiler&label=site:north`. */
function openList() {
  const filters = new URLSearchParams(location.hash.slice(LIST.length).replace(/^\?/, ""));
  panel.open(null);
  list.choose(null);
  openModel();
  list.filter(Object.fromEntries(filters));
  $("sessions-title").scrollIntoView({ block: "start" });
  $("sessions-title").focus({ preventScroll: true });
}

function openModel() {
  const name = shownModel();
  $("detail").hidden = name !== null;
  modelPage.open(name, model(name));
}

async function loadModels() {
  try {
    const found = (await call("models")).models;
    models = new Map(found.map((model) => [model.name, model]));
    list.offer([...models.keys()]);
    showModels(found);
    openModel();
  } catch (error) {
    failed(error);
  }
}

function showModels(list) {
  $("models").replaceChildren(...list.map(card));
  const name = writer()?.name;
  $("new-text").hidden = !name;
  $("new-text").textContent = `Write a text with ${name}`;
  const select = $("try-model");
  const before = select.value || list.find((model) => model.default)?.name;
  const option = ({ name }) => create("option", { value: name, selected: name === before }, name);
  select.replaceChildren(...list.map(option));
  tryIt.refresh();
}

function card(model) {
  return create(
    "li", {},
    create("a", { href: modelAddress(model.name) }, model.name), model.default ? " (default)" : "",
    create("span", {}, `${ports(model.inputs)} → ${ports(model.outputs)}; ${network(model)}`),
    create("span", {}, `${residents(model)}${counted(model.carry_bytes, "byte")} per session`),
    create("span", {}, model.fingerprint.slice(0, 12)),
  );
}

function ports(list) {
  const words = ({ name, unit, size }) => `${name}${size > 1 ? ` × ${count(size)}` : ""}${unit ? ` (${unit})` : ""}`;
  return layOut(list).map(words).join(", ");
}

/** The number of sessions in memory; empty if the key may not see other tenants. */
function residents({ sessions_resident: resident }) {
  return resident === null ? "" : `${counted(resident, "session")} in memory, `;
}

/** Shows the error of a failed refresh; null means that the refresh succeeded. */
function failed(error) {
  if (error?.status === 401 && asked !== key.get()) {
    asked = key.get();
    askKey(asked ? "The server does not know this key." : "This server needs an API key.");
  }
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
  tenant.set(null);
  retryKey();
  asked = undefined; // if the server does not take it, the page says so
  await restart();
  if (!isRefused()) toast(typed ? "The key is used from now on" : "No key is used");
}

/** Begins anew, with another key or tenant. */
async function restart() {
  panel.open(null);
  list.restart();
  await start();
}

/** Lets an admin choose the tenant: an admin alone sees how many sessions all tenants have. */
async function offerTenants() {
  const isAdmin = key.get() !== null && [...models.values()].some((model) => model.sessions_resident !== null);
  $("tenant-label").hidden = !isAdmin;
  if (!isAdmin) return;
  const option = (value, text) => create("option", { value, selected: value === (tenant.get() ?? "") }, text);
  const names = await tenants().catch(() => []);
  if (tenant.get() && tenant.get() !== ALL_TENANTS && !names.includes(tenant.get())) names.push(tenant.get());
  $("tenant").replaceChildren(option("", "of the key"), option(ALL_TENANTS, "all"), ...names.map((name) => option(name, name)));
}

/** The names of the tenants that have sessions: each request skips the sessions of the tenant before. */
async function tenants() {
  const names = [];
  for (let after = ""; names.length < MOST_TENANTS; after = `${names.at(-1)}/~`) {
    const { sessions } = await call(`sessions?${new URLSearchParams({ limit: "1", after })}`, { of: ALL_TENANTS });
    if (!sessions.length) break;
    names.push(sessions[0].session.slice(0, sessions[0].session.lastIndexOf("/")));
  }
  return names;
}

function enter(owner, session) {
  tenant.set(owner);
  $("tenant").value = owner; // at once: the names of the tenants are asked for anew
  show(session);
  restart();
}
