// The service as the page calls it. The key lives in this tab alone: never in an address, never in a log.

const KEY = "carryover.key";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** An answer that is a problem (RFC 9457). */
export class Problem extends Error {
  constructor(status, told) {
    super(told.detail ?? told.title ?? `the server answered ${status}`);
    this.status = status;
    this.told = told;
  }
}

/** Answers the body of `path`: JSON, or a Blob where that is asked for. */
export async function call(path, { method = "GET", body, as = "json" } = {}) {
  const headers = { accept: "application/json" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const answer = await fetch(address(path), { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
  if (answer.status === 204) return null;
  return as === "blob" ? answer.blob() : answer.json();
}

/** A socket. A browser can send it no header, so the key goes as a subprotocol. */
export function socket(path) {
  const to = address(path);
  to.protocol = to.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(to, key.get() ? ["carryover", `carryover.bearer.${key.get()}`] : []);
}

export const sessionPath = (id, rest = "") => `sessions/${encodeURIComponent(id)}${rest}`;

function address(path) {
  const to = new URL(path, document.baseURI);
  to.hash = "";
  return to;
}
