// The page of a model: what goes in, what comes out, and how to send it an observation.

import { call, key, sessionPath } from "./api.js";
import { $, ask, count, counted, create, number, toast } from "./dom.js";
import { layOut, sentInputs, widthOf } from "./ports.js";

const MOST_NAMES = 64; // of the numbers of a port
const MOST_SESSIONS = 24;
const MOST_WRITTEN = 16; // numbers of an observation; `yes` writes more
const FEW_PAIRS = 4; // of outputs and inputs of a forecast
const ADDRESS = "#model/";

export const LIST = "#list"; // the address of the list, with its filters behind it

export const modelAddress = (name) => ADDRESS + encodeURIComponent(name);

/** The name in a part of the address; null if the part is not encoded as addresses are, such as `50%`. */
export function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return null;
  }
}

/** The model that the address names; null if it names none. */
export const shownModel = () => (location.hash.startsWith(ADDRESS) ? decoded(location.hash.slice(ADDRESS.length)) : null);

/** The kind of the network, such as `LSTM 64 × 2, head 32`. */
export function network({ architecture, hidden_size: size, num_layers: layers }) {
  if (!architecture) return "ONNX graph";
  const head = architecture.head.length ? `, head ${architecture.head.join(", ")}` : "";
  const { embedding } = architecture;
  const tokens = embedding ? `, embedding ${count(embedding.vocabulary)} × ${embedding.width}` : "";
  return `${architecture.cell === "rnn" ? "RNN" : architecture.cell.toUpperCase()} ${size} × ${layers}${head}${tokens}`;
}

export class ModelPage {
  constructor({ sessions, changed }) {
    this.sessions = sessions; // returns those of the list
    this.changed = changed; // called when a model was loaded again
    this.name = null;
    this.pictured = null; // the model whose figure is shown; undefined: to be requested anew
    $("reload").onclick = () => this.#reload().catch((error) => toast(error.message));
    $("curl-copy").onclick = () => this.#copy();
  }

  /** Shows the model of this name; null for none. `model` is null if the server has no such model. */
  open(name, model) {
    const arrives = name !== this.name;
    this.name = name;
    $("model").hidden = name === null;
    if (name === null) return;
    $("model-title").textContent = name;
    $("model-missing").hidden = model !== null;
    $("model-view").hidden = model === null;
    if (model) this.#show(model);
    else $("reload").hidden = true; // that of the model before
    if (arrives) $("model").scrollIntoView({ block: "nearest" });
  }

  #show(model) {
    this.#facts(model);
    const inputs = layOut(model.inputs);
    const sent = sentInputs(model);
    const computed = inputs.length - sent.length;
    const wide = widthOf(sent);
    $("inputs-hint").textContent =
      `A row of observations has ${counted(wide, "number")}${inputs.length > 1 ? ", in this order" : ""}.` +
      (computed ? ` The server computes the last ${counted(computed, "input")} from timestamps.` : "");
    $("inputs").replaceChildren(...inputs.map((port) => row(port, [range(port), port.unit ?? "–"])));
    $("outputs").replaceChildren(...layOut(model.outputs).map((port) => row(port, [port.kind, port.unit ?? "–"])));
    const command = curl(model);
    if ($("curl").textContent !== command) $("curl").textContent = command; // the reader may have selected it
    const { recipe, data, ...measured } = model.metrics; // these two say how the model was trained
    const metrics = leaves(measured);
    $("metrics-part").hidden = !metrics.length;
    $("metrics").replaceChildren(...metrics.map(fact));
    this.#sessions(model);
    this.#picture(model);
    $("reload").hidden = model.sessions_resident === null; // only an admin sees how many there are
    $("model-list").href = `${LIST}?${new URLSearchParams({ model: model.name })}`;
  }

  /** The figure of the training. It is requested with the key, so it cannot be the address of an image. */
  async #picture(model) {
    const of = model.has_figure ? `${model.name} ${model.fingerprint}` : null;
    if (of === this.pictured) return;
    this.pictured = of;
    $("figure-part").hidden = true;
    if (of === null) return;
    try {
      const blob = await call(`models/${encodeURIComponent(model.name)}/figure`, { as: "blob" });
      const picture = await dataUrl(blob);
      if (of !== this.pictured) return;
      $("model-figure").src = picture;
      $("model-figure").alt = `The training of ${model.name}: its predictions beside what was observed`;
      $("figure-part").hidden = false;
    } catch (error) {
      if (of === this.pictured) this.pictured = undefined;
      toast(error.message);
    }
  }

  async #reload() {
    const { name } = this;
    const text = "Sessions keep their present network until they are reset.";
    if (!(await ask({ title: `Load ${name} again?`, text, yes: "Load again" }))) return;
    const { changed } = await call(`models/${encodeURIComponent(name)}/reload`, { method: "POST" });
    this.pictured = undefined; // the figure may be another
    toast(changed ? `${name} is another network now` : `${name} is the same as on disk`);
    this.changed();
  }

  #facts(model) {
    const { sessions_resident: resident, sessions_on_older: older } = model;
    const facts = [
      ["network", network(model)],
      ["state of a session", counted(model.carry_bytes, "byte")],
      ...(resident === null ? [] : [["sessions in memory", `${count(resident)}${older ? `, ${count(older)} on an older network` : ""}`]]),
      ["forecasts", forecasts(model)],
      ...(model.states.length ? [["kept of a session", model.states.map(state).join("; ")]] : []),
      ...(model.learning ? [["sessions learn", "by default"]] : []),
      ...(model.default ? [["default model", "yes"]] : []),
      ["fingerprint", model.fingerprint.slice(0, 12)],
    ];
    $("model-facts").replaceChildren(...facts.map(fact));
  }

  #sessions(model) {
    const all = this.sessions().filter((row) => row.model === model.name);
    const link = ({ session }) => create("li", {}, create("a", { href: `#/${encodeURIComponent(session)}` }, session));
    const links = all.slice(0, MOST_SESSIONS).map(link);
    $("model-sessions").replaceChildren(...(links.length ? links : [create("li", { className: "hint" }, "None on this page of the list.")]));
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText($("curl").textContent);
      toast("The command was copied");
    } catch {
      getSelection().selectAllChildren($("curl")); // the clipboard needs HTTPS or localhost
      toast("The command is selected: copy it");
    }
  }
}

/** The content security policy takes pictures as data, not as blobs. */
const dataUrl = (blob) =>
  new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });

/** The command that sends one observation of this model, or lets it write. The key itself is never a part of it. */
export function curl(model) {
  const sent = sentInputs(model);
  const times = model.time_features.length ? { timestamps: [new Date(0).toISOString()] } : {};
  const asked = model.vocabulary ? { prompt: model.sample_prompt, steps: 80 } : { ...observation(model, sent), ...times };
  const body = quote(JSON.stringify({ model: model.name, ...asked }));
  const authorization = key.get() ? `-H "authorization: Bearer $KEY" ` : "";
  const action = model.vocabulary ? "/generate" : "/observations";
  const address = new URL(sessionPath(`${model.name}-1`.slice(-128), action), document.baseURI);
  address.hash = "";
  const zeros = `'"$(yes ${start(sent[0])} | head -n ${widthOf(sent)} | paste -sd , -)"'`;
  return `curl -s ${quote(address.href)} ${authorization}-d ${body.replace(`"${ZEROS}"`, () => zeros)}`;
}

const ZEROS = "zeros"; // stands for a long row until the body is JSON

/** By name for a graph with several inputs; a row otherwise, which is written by the shell if it is long. */
function observation(model, sent) {
  const wide = widthOf(sent);
  if (!model.architecture && sent.length > 1 && wide <= MOST_WRITTEN)
    return { inputs: Object.fromEntries(sent.map((port) => [port.name, [nested(start(port), port.shape)]])) };
  const alike = sent.every((port) => start(port) === start(sent[0]));
  if (wide > MOST_WRITTEN && alike) return { observations: [[ZEROS]] };
  return { observations: [sent.flatMap((port) => Array(port.size).fill(start(port)))] };
}

const nested = (value, [size, ...rest]) => (size === undefined ? value : Array.from({ length: size }, () => nested(value, rest)));

/** A number that this input takes: 0, or the one nearest to it in its range. */
const start = ({ range: limits }) => (limits ? Math.min(Math.max(0, limits[0]), limits[1]) : 0);

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function row(port, more) {
  const names = port.columns ? port.columns.slice(0, MOST_NAMES).join(", ") + (port.size > MOST_NAMES ? ", …" : "") : "";
  const title = create("th", { scope: "row" }, port.name);
  if (names) title.append(create("small", {}, names));
  const shape = port.shape.length ? port.shape.map(count).join(" × ") : "one number";
  return create("tr", {}, title, ...[port.dtype, shape, ...more].map((text) => create("td", {}, text)));
}

const range = ({ range: limits }) => (limits ? `${number(limits[0])} to ${number(limits[1])}` : "any");

const state = ({ input, output, dtype, shape }) => `${output} → ${input}, ${dtype} ${shape.map(count).join(" × ")}`.trimEnd();

function forecasts(model) {
  if (!model.can_forecast) return "no: it does not predict its inputs";
  const pairs = Object.entries(model.feedback);
  const others = pairs.filter(([input, output]) => input !== output); // an input of the same name goes without saying
  const fed = others.slice(0, FEW_PAIRS).map(([input, output]) => `${output} becomes the next ${input}`);
  if (others.length > FEW_PAIRS) fed.push("…");
  const known = model.future.length ? [`with ${model.future.join(", ")} known ahead`] : [];
  return ["yes", ...known, ...fed].join(", ");
}

/** The numbers and texts of a tree, such as `test.mse`. */
function leaves(tree, path = []) {
  return Object.entries(tree).flatMap(([name, value]) => {
    if (value !== null && typeof value === "object") return Array.isArray(value) ? [] : leaves(value, [...path, name]);
    return [[[...path, name].join(" "), typeof value === "number" ? number(value) : String(value)]];
  });
}

const fact = ([name, value]) => create("div", {}, create("dt", {}, name), create("dd", {}, value));
