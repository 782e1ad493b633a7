// Calls of the server. The API key is kept in this tab only: it is in no address and in no log.

const kept = (name) => ({
  get: () => sessionStorage.getItem(name),
  set: (text) => (text ? sessionStorage.setItem(name, text) : sessionStorage.removeItem(name)),
});

export const key = kept("carryover.key");

/** The tenant whose sessions an admin sees; null for the key's own. */
export const tenant = kept("carryover.tenant");

let refused; // the last key that the server did not take; null: it takes no request without a key

/** Whether the server has refused the present key. Nothing more is sent with it. */
export const isRefused = () => refused === key.get();

/** Tries the present key again. */
export const retryKey = () => (refused = undefined);

/** An error answer of the server (RFC 9457). */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`);
    this.status = status;
    this.field = problem.field; // that was refused, if it was one
  }
}

/** There is no answer: the connection was not made, or was lost. */
export class Unreached extends Error {
  constructor() {
    super("the server was not reached");
  }
}

/**
 * Returns the body of the answer: JSON, or a Blob with `as: "blob"`.
 *
 * The request's is `body` in JSON, or a file `csv` or `wav`. `of` is the tenant that an admin names.
 */
export async function call(path, { method = "GET", body, csv, wav, as = "json", of = tenant.get() } = {}) {
  const headers = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (csv !== undefined) headers["content-type"] = "text/csv";
  if (wav !== undefined) headers["content-type"] = "audio/wav";
  const answer = await request(path, { method, headers, body: csv ?? wav ?? (body && JSON.stringify(body)) }, of);
  if (answer.status === 204) return null;
  const content = as === "blob" ? answer.blob() : answer.json();
  return content.catch(() => {
    throw new Unreached();
  });
}

/**
 * The server-sent events of a request, as arrays of `{ id, event, data }` that have come together, the data read
 * from JSON. `EventSource` cannot send a key.
 *
 * `last` is the id of the event that it goes on behind. It ends without an error where the connection is lost.
 */
export async function* stream(path, { method = "GET", body, last, signal }) {
  const headers = { accept: "text/event-stream" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (last) headers["last-event-id"] = last;
  const answer = await request(path, { method, headers, body: body && JSON.stringify(body), signal }, tenant.get());
  let rest = "";
  for await (const part of parts(answer.body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (rest + part).split("\n\n");
    rest = blocks.pop();
    yield blocks.filter((block) => !block.startsWith(":")).map(parseEvent); // the others are comments
  }
}

/** The parts of a stream; not every browser iterates over it. */
async function* parts(readable) {
  const reader = readable.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {}); // closes the connection, if the reader of the events stops
  }
}

function parseEvent(text) {
  const fields = Object.fromEntries(text.split("\n").map((line) => [line.slice(0, line.indexOf(": ")), line.slice(line.indexOf(": ") + 2)]));
  return { id: fields.id, event: fields.event, data: JSON.parse(fields.data) };
}

async function request(path, { headers, ...options }, of) {
  if (isRefused()) throw new Problem(401, { detail: key.get() ? "the server refuses this key" : "the server needs a key" });
  const used = key.get();
  const caller = { ...(of && { "carryover-tenant": of }), ...(used && { authorization: `Bearer ${used}` }) };
  const answer = await fetch(address(path), { ...options, headers: { ...headers, ...caller }, cache: "no-store" }).catch((error) => {
    throw options.signal?.aborted ? error : new Unreached();
  });
  if (answer.status === 401) refused = used;
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  return answer;
}

/** Opens a socket. Browsers cannot add headers to it, so key and tenant are sent as subprotocols. */
export function socket(path) {
  const url = address(path);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const named = tenant.get() ? [`carryover.tenant.${tenant.get()}`] : [];
  return new WebSocket(url, key.get() ? ["carryover", `carryover.bearer.${key.get()}`, ...named] : []);
}

export const sessionPath = (id, rest = "") => `sessions/${encodeURIComponent(id)}${rest}`;

function address(path) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  return url;
}
