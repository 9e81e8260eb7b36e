// Requests to the server that this page came from, wherever a proxy put it. The key lives in this module's memory.

const ROOT = new URL("../../../", import.meta.url);

let key = "";

/** "lost" without an answer, "locked" where a key is asked for, "keyed" when one was given. */
export const events = new EventTarget();

/** An answer that says what went wrong (RFC 9457); status 0 where there was none. */
export class Problem extends Error {
  constructor(status, detail, title = "") {
    super(detail);
    Object.assign(this, { status, title });
  }
}

export const address = (path) => new URL(path.replace(/^\//, ""), ROOT);

export function useKey(text) {
  key = text.trim();
  events.dispatchEvent(new Event("keyed"));
}

async function send(path, { method = "GET", body, accept = "application/json", signal, other = "" } = {}) {
  const headers = { Accept: accept };
  if (other || key) headers.Authorization = `Bearer ${other || key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address(path), {
      method, headers, signal, credentials: "omit", body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    events.dispatchEvent(new Event("lost"));
    throw new Problem(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  if (response.status === 401 && !other) events.dispatchEvent(new Event("locked"));
  throw new Problem(response.status, problem.detail ?? `HTTP status ${response.status}`, problem.title);
}

/** The JSON document of an address. */
export const get = async (path, options) => (await send(path, options)).json();

/** The answer to a JSON body, whose arrays come as base64. */
export const post = async (path, body, options) =>
  (await send(path, { method: "POST", body: { ...body, encoding: "base64" }, ...options })).json();

/** The answer to a PUT or DELETE, which may need another key than the page's own. */
export const change = async (method, path, body, other) => (await send(path, { method, body, other })).json();

/** A picture of samples. */
export const picture = async (body) => (await send("sample", { method: "POST", body, accept: "image/png" })).blob();

/** The text of an address. */
export const text = async (path) => (await send(path, { accept: "text/plain" })).text();

/** Whether the server is ready, with its document; for the connection line alone, so no event comes of it. */
export async function readiness() {
  const response = await fetch(address("readyz"), { credentials: "omit", cache: "no-store" });
  return response.json();
}
