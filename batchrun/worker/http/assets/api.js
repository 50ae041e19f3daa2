// Requests to the worker, with the key of the page, which only the tabs of this address keep.

const KEY = "batchrun-page-key";
// How long another tab may take to give the key; one that answers later still opens a page that says it is closed.
const HANDOVER_MS = 500;
// Sooner than a link expires.
export const LINKS_FOR_MS = 200_000;

export class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

const keyNow = () => sessionStorage.getItem(KEY);
// Pages of this address only: what strangers wrote is shown with an origin of its own, and joins no channel of ours.
const tabs = new BroadcastChannel(KEY);
let whenGiven = () => {};
tabs.addEventListener("message", ({ data }) => {
  if (data.wanted && keyNow() !== null) tabs.postMessage({ key: keyNow() });
  if (data.key && (data.isNew || keyNow() === null)) {
    sessionStorage.setItem(KEY, data.key);
    whenGiven();
  }
});

// What the page's address holds, and the browser's history, is given for the key once; without it another tab is asked.
export async function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (given !== null) {
    history.replaceState(null, "", location.pathname);
    const shown = { method: "POST", headers: { Authorization: `Bearer ${given}` } };
    const answer = await fetch("/v1/page-session", shown).catch(() => null);
    if (answer?.ok) {
      sessionStorage.setItem(KEY, (await answer.json()).key);
      tabs.postMessage({ key: keyNow(), isNew: true });
    }
  }
  if (keyNow() !== null) return;
  await new Promise((done) => {
    whenGiven = done;
    tabs.postMessage({ wanted: true });
    setTimeout(done, HANDOVER_MS);
  });
}

// Forget a key that the worker does not take, and call back once another tab has one.
export function dropKey(then) {
  sessionStorage.removeItem(KEY);
  whenGiven = then;
}

const authorized = () => ({ Authorization: `Bearer ${keyNow()}` });

// Send a request and return its answer. A body is JSON, unless it is a form.
export async function ask(method, path, { body, headers = {}, signal } = {}) {
  const options = { method, signal, headers: { ...authorized(), ...headers }, cache: "no-store" };
  if (body instanceof FormData) {
    options.body = body;
  } else if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem("The worker does not answer.", 0);
  });
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => null);
  throw new Problem(problem?.error?.message ?? `The worker answers ${answer.status}.`, answer.status);
}

export const read = async (path, signal) => (await ask("GET", path, { signal })).json();

// The same, with the digits of numbers that JavaScript would round.
export async function readExactly(path, signal) {
  return JSON.parse(await (await ask("GET", path, { signal })).text(), exact);
}

function exact(_key, value, context) {
  const source = context?.source;
  return typeof value === "number" && source !== undefined && String(value) !== source ? JSON.rawJSON(source) : value;
}

// Headers of an order that is carried out once, however often it arrives.
export const onceKey = () => ({ "Idempotency-Key": `page-${crypto.getRandomValues(new BigUint64Array(2)).join("-")}` });

export const pathOf = (id) => `/v1/batches/${encodeURIComponent(id)}`;
export const query = (values) =>
  new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value != null)).toString();

const links = new Map();

// A path to an output of a batch that works as a link, which sends no key.
export async function linkTo(id, what, values = {}) {
  const known = links.get(id);
  if (known === undefined || Date.now() >= known.until) {
    const { access } = await read(`${pathOf(id)}/access`);
    links.set(id, { access, until: Date.now() + LINKS_FOR_MS });
  }
  const words = query(values);
  return `${pathOf(id)}/${what}?${words}${words ? "&" : ""}${links.get(id).access}`;
}

// Yield the worker's events until the connection ends. Not an EventSource, which cannot send the key.
export async function* events(words, signal) {
  const answer = await ask("GET", `/v1/events?${words}`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    text += value;
    const found = text.split("\n\n");
    text = found.pop();
    for (const event of found) {
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  }
}
