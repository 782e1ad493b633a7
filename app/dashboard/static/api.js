// Calls of the server. The API key is kept in this tab only: it is in no address and in no log.

const KEY = "carryover.key";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** An error answer of the server (RFC 9457). */
export class Problem extends Error {
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`);
    this.status = status;
  }
}

/** Returns the body of the answer: JSON, or a Blob with `as: "blob"`. The request's is `body` in JSON, or a file `csv`. */
export async function call(path, { method = "GET", body, csv, as = "json" } = {}) {
  const headers = { accept: "application/json" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  if (csv !== undefined) headers["content-type"] = "text/csv";
  const sent = csv ?? (body && JSON.stringify(body));
  const answer = await fetch(address(path), { method, headers, body: sent, cache: "no-store" });
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 204) return null;
  return as === "blob" ? answer.blob() : answer.json();
}

/** Opens a socket. Browsers cannot add headers to it, so the key is sent as a subprotocol. */
export function socket(path) {
  const url = address(path);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(url, key.get() ? ["carryover", `carryover.bearer.${key.get()}`] : []);
}

export const sessionPath = (id, rest = "") => `sessions/${encodeURIComponent(id)}${rest}`;

function address(path) {
  const url = new URL(path, document.baseURI);
  url.hash = "";
  return url;
}
