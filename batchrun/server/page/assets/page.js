// The page of the embedded server. It reads the API as any client does. What it shows is set as text, never as markup:
// the page's policy forbids the latter.

const byId = (id) => document.getElementById(id);
const EVERY_MS = 2000;
const RUNS_AT_ONCE = 25;
const OTHERS_AT_ONCE = 20;
const ITEMS_AT_ONCE = 50;
// Bytes of one page of items, as far as their average size tells.
const ITEMS_BYTES = 4_000_000;
const MAX_COLUMNS = 100;
// A longer value of an item is folded.
const CELL_CHARS = 60;
const MAX_LOG_CHARS = 500_000;
// Values up to this size are shown in the page.
const SHOWN_BYTES = 262_144;
const VALUES_AT_ONCE = 20;
// The API lists no more at once.
const MAX_VALUES = 1000;
const LIVE = "READY,RUNNING,TIMING-OUT,ABORTING";
// Words and tones by the status that a list is filtered by.
const CHOICES = {
  "": ["all", ""],
  [LIVE]: ["live", "live"],
  SUCCEEDED: ["succeeded", "succeeded"],
  FAILED: ["failed", "failed"],
  "TIMED-OUT": ["timed out", "timed_out"],
  ABORTED: ["aborted", "aborted"],
};

class Problem extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
  // True if asking again cannot help.
  get isFinal() {
    return this.status >= 400 && this.status < 500 && this.status !== 408 && this.status !== 429;
  }
}

// The API

const TOKEN = "batchrun-token";
// Begins a token that ends with the server's process. No other is kept: another program may take the port over.
const OF_PAGE = "batchrun_page_";

// Take a token, in exchange for one of the page unless it is one.
async function take(token) {
  sessionStorage.removeItem(TOKEN);
  const found = token.startsWith(OF_PAGE) ? token : (await (await send("/page/session", token, { method: "POST" })).json()).data.token;
  sessionStorage.setItem(TOKEN, found);
}

const ask = (path, signal) => send(path, sessionStorage.getItem(TOKEN), { signal });

async function send(path, token, given) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const options = { ...given, headers, cache: "no-store", credentials: "omit" };
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer.", 0);
  });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw new Problem(said?.error?.message ?? `The server answers ${answer.status}.`, answer.status);
}

// Numbers that JavaScript would round keep their digits.
function exact(_key, value, context) {
  const source = context?.source;
  return typeof value === "number" && source !== undefined && String(value) !== source ? JSON.rawJSON(source) : value;
}

const data = async (path, signal) => (await (await ask(path, signal)).json()).data;
const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();
// A link that the API has made, at the address under which the page was opened.
const ownPath = (link) => new URL(link).pathname + new URL(link).search;
const withQuery = (path, words) => `${path}${path.includes("?") ? "&" : "?"}${words}`;

const names = new Map();

// The name of a task or Actor; its id if it is gone, or not for this caller to see.
function nameOf(kind, id) {
  const path = `/v2/${kind}/${encodeURIComponent(id)}`;
  if (!names.has(path)) {
    const found = data(path).then(
      (doc) => (kind === "actors" ? `${doc.username}/${doc.name}` : doc.name),
      (error) => {
        if (!error.isFinal) names.delete(path);
        return id;
      },
    );
    names.set(path, found);
  }
  return names.get(path);
}

// Elements and words

function el(name, attributes, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

function downloadLinks(place, links) {
  if (place.said === JSON.stringify(links)) return;
  place.said = JSON.stringify(links);
  const made = ([name, href]) => link(href, name, { download: "", "aria-label": `Download as ${name}` });
  place.replaceChildren(...Object.entries(links).map(made));
}

const cell = (kind, ...content) => el("td", { class: kind }, ...content);
const link = (href, text, attributes = {}) => el("a", { href, ...attributes }, text);
const count = (number) => number.toLocaleString("en");
const moment = (iso) => (iso ? iso.slice(0, 19).replace("T", " ") : "");
const wordOf = (status) => status.toLowerCase().replace("-", " ");

const toneOf = (status) => CHOICES[status]?.[1] ?? "live";
const swatch = (tone) => el("span", { class: `swatch tone-${tone}`, "aria-hidden": "true" });

function duration(run) {
  const ms = (run.finishedAt ? Date.parse(run.finishedAt) : Date.now()) - Date.parse(run.startedAt);
  const seconds = Math.max(0, ms / 1000);
  if (seconds < 59.5) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  const two = (number) => String(number).padStart(2, "0");
  if (minutes < 60) return `${minutes} min ${two(Math.round(seconds) % 60)} s`;
  return `${count(Math.floor(minutes / 60))} h ${two(minutes % 60)} min`;
}

function size(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  for (const [unit, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (bytes >= unit) return `${(bytes / unit).toFixed(1)} ${name}`;
  }
}

// Put entries [key, state, make] into a list. An element stays while its state is the same, and with it the focus.
function fill(list, entries) {
  const before = list.shown ?? new Map();
  const now = new Map();
  let toFocus = null;
  for (const [key, state, make] of entries) {
    const old = before.get(key);
    const node = old?.state === state ? old.node : make();
    if (node !== old?.node && old?.node.contains(document.activeElement)) toFocus = node.querySelector("a");
    now.set(key, { state, node });
  }
  for (const [key, { node }] of before) {
    if (now.get(key)?.node !== node) node.remove();
  }
  let at = list.firstElementChild;
  for (const { node } of now.values()) {
    if (node === at) at = at.nextElementSibling;
    else list.insertBefore(node, at);
  }
  list.shown = now;
  toFocus?.focus();
  showEmptiness(list, now.size === 0);
}

function showEmptiness(list, isEmpty) {
  const card = list.closest(".card");
  card.querySelector(".none").hidden = !isEmpty;
  card.querySelector(".scroll")?.toggleAttribute("hidden", isEmpty);
}

// Links to the pages before and after; `address` makes the address of one from its offset.
function fillPager(list, { total, offset, limit }, address) {
  const pager = list.closest(".card").querySelector(".pager");
  if (offset === 0 && total <= limit) {
    pager.replaceChildren();
    return;
  }
  if (pager.childElementCount === 0) pager.append(el("span", {}), el("a", {}, "Previous"), el("a", {}, "Next"));
  const [said, back, on] = pager.children;
  const [first, last] = [offset + 1, offset + limit].map((at) => count(Math.min(at, total)));
  said.textContent = `${first} to ${last} of ${count(total)}`;
  const lead = (to, isThere, where) => (isThere ? to.setAttribute("href", address(where)) : to.removeAttribute("href"));
  lead(back, offset > 0, Math.max(0, offset - limit));
  lead(on, offset + limit < total, offset + limit);
}

function tell(text, isTrouble = false) {
  // Set only if it is new: it is read out.
  if (byId("state").textContent !== text) byId("state").textContent = text;
  byId("state").className = isTrouble ? "trouble" : "";
}

function show(place, title, isId = false) {
  for (const each of ["overview", "run", "entry"]) byId(each).hidden = each !== place;
  byId("back").hidden = place === "overview";
  byId("title").textContent = title;
  byId("title").className = isId ? "id" : "";
  document.title = `${title} · batchrun`;
}

// Waiting

const untilShown = async () => {
  while (document.hidden) {
    await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
  }
};

async function pause() {
  await new Promise((done) => setTimeout(done, EVERY_MS));
  await untilShown();
}

// Refresh again and again until that returns true, or fails for good.
async function poll(signal, refresh) {
  while (true) {
    try {
      const isDone = await refresh();
      tell(isDone ? "" : "live");
      if (isDone) return;
    } catch (error) {
      if (signal.aborted || error.isFinal) throw error;
      const reason = error instanceof Problem ? error.message : "The answer is cut.";
      tell(`${reason} The page is out of date; trying again.`, true);
    }
    await pause();
    signal.throwIfAborted();
  }
}

// A part of the page that cannot be read for good says so in its place.
async function inPlace(note, work) {
  try {
    await work();
  } catch (error) {
    if (!error.isFinal) throw error;
    byId(note).textContent = error.message;
  }
}

// Actors, tasks and Runs

async function showOverview(chosen, signal) {
  const of = chosen.task ? `actor-tasks/${encodeURIComponent(chosen.task)}/runs`
    : chosen.actor ? `actors/${encodeURIComponent(chosen.actor)}/runs` : "actor-runs";
  const address = (change) => `#/?${query({ ...chosen, ...change })}`;
  const list = (path, name, limit, more = {}) =>
    data(`/v2/${path}?${query({ limit, offset: Number(chosen[name]) || 0, ...more })}`, signal);
  await poll(signal, async () => {
    const [runs, tasks, actors, ...chances] = await Promise.all([
      list(of, "runs", RUNS_AT_ONCE, { desc: 1, status: chosen.status }),
      list("actor-tasks", "tasks", OTHERS_AT_ONCE),
      list("actors", "actors", OTHERS_AT_ONCE),
      ...Object.keys(CHOICES).map((status) => data(`/v2/${of}?${query({ limit: 1, status })}`, signal)),
    ]);
    const rows = await Promise.all(runs.items.map(runRow));
    const words = await ownerWords(chosen);
    signal.throwIfAborted();
    show("overview", "Actors, tasks and Runs");
    fillOwner(chosen, words);
    fillChoices(chosen.status ?? "", chances.map((each) => each.total), address);
    fill(byId("runs"), rows);
    fillPager(byId("runs"), runs, (offset) => address({ runs: offset }));
    fill(byId("tasks"), tasks.items.map((task) => taskRow(task, address)));
    fillPager(byId("tasks"), tasks, (offset) => address({ tasks: offset }));
    fill(byId("actors"), actors.items.map((actor) => actorRow(actor, address)));
    fillPager(byId("actors"), actors, (offset) => address({ actors: offset }));
    return false;
  });
}

async function ownerWords({ task, actor }) {
  if (task) return `of the task ${await nameOf("actor-tasks", task)}`;
  return actor ? `of the Actor ${await nameOf("actors", actor)}` : "";
}

function fillOwner({ status }, words) {
  const place = byId("runs-of");
  if (place.said === words) return;
  place.said = words;
  place.replaceChildren(words, ...(words ? [" · ", link(`#/?${query({ status })}`, "show all")] : []));
}

function fillChoices(chosen, totals, address) {
  const list = byId("statuses");
  Object.entries(CHOICES).forEach(([status, [word, tone]], at) => {
    const choice = (list.children[at] ?? list.appendChild(el("li", {}, el("a", {})))).firstElementChild;
    choice.href = address({ status, runs: "" });
    choice.ariaCurrent = status === chosen ? "true" : null;
    choice.replaceChildren(...(tone ? [swatch(tone)] : []), `${word} ${count(totals[at])}`);
  });
}

async function runRow(run) {
  const task = run.actorTaskId ? await nameOf("actor-tasks", run.actorTaskId) : "";
  const actor = await nameOf("actors", run.actId);
  const time = duration(run);
  const make = () =>
    el("tr", {},
      cell("status", swatch(toneOf(run.status)), wordOf(run.status)),
      cell("", link(`#/runs/${encodeURIComponent(run.id)}`, el("code", {}, run.id))),
      cell("text", task), cell("text minor", actor),
      cell("time minor", moment(run.startedAt)), cell("number minor", time));
  return [run.id, JSON.stringify([run.status, task, actor, time]), make];
}

function taskRow(task, address) {
  const runs = task.stats?.totalRuns ?? 0;
  const href = address({ task: task.id, actor: "", runs: "" });
  const actor = task.actName ? `${task.actUsername}/${task.actName}` : task.actId;
  const make = () =>
    el("tr", {}, cell("text", link(href, task.name ?? task.id)), cell("text", actor), cell("number", count(runs)));
  return [task.id, JSON.stringify([href, task.name, actor, runs]), make];
}

function actorRow(actor, address) {
  const runs = actor.stats?.totalRuns ?? 0;
  const href = address({ actor: actor.id, task: "", runs: "" });
  const name = `${actor.username}/${actor.name}`;
  const make = () =>
    el("tr", {}, cell("text", link(href, name)), cell("text minor", actor.title ?? ""), cell("number", count(runs)));
  return [actor.id, JSON.stringify([href, name, actor.title, runs]), make];
}

// One Run

let shown = null;

async function showRun(id, offset, signal) {
  const path = `/v2/actor-runs/${encodeURIComponent(id)}`;
  const view = { id, offset, path, signal, dataset: "", values: VALUES_AT_ONCE, seen: 0, unshown: "" };
  shown = view;
  await poll(signal, async () => {
    const run = await data(path, signal);
    const actor = await nameOf("actors", run.actId);
    const task = run.actorTaskId ? await nameOf("actor-tasks", run.actorTaskId) : null;
    signal.throwIfAborted();
    if (view.dataset === "") beginRun(view, run);
    fillFacts(run, actor, task);
    await inPlace("items-note", () => showItems(view));
    await inPlace("values-note", () => showValues(view));
    return run.finishedAt !== null;
  });
}

function beginRun(view, run) {
  show("run", `Run ${view.id}`, true);
  for (const each of ["log-note", "items-note", "items-files", "values-note", "values-files"]) {
    byId(each).textContent = byId(each).said = "";
  }
  const [table, values] = [byId("items"), byId("values")];
  table.shown = "";
  fillItems(table, [], 0);
  fillPager(table, { total: 0, offset: 0, limit: 1 });
  fill(values, []);
  for (const each of document.querySelectorAll("#run .none, #run .scroll")) each.hidden = true;
  view.dataset = run.defaultDatasetId;
  view.store = run.defaultKeyValueStoreId;
  followLog(view);
  showInput(view, run).catch(() => {});
}

function fillFacts(run, actor, task) {
  const said = run.statusMessage ? [el("span", { class: "said" }, run.statusMessage)] : [];
  byId("run-status").replaceChildren(swatch(toneOf(run.status)), wordOf(run.status), ...said);
  byId("run-status").classList.toggle("trouble", ["FAILED", "TIMED-OUT"].includes(run.status));
  const limit = run.options.timeoutSecs ? ` of at most ${count(run.options.timeoutSecs)} s` : "";
  const facts = {
    Actor: `${actor}, build ${run.buildNumber}`,
    Task: task,
    "Exit code": run.exitCode === null ? null : String(run.exitCode),
    Started: `${moment(run.startedAt)} UTC, by ${run.meta.origin}`,
    Finished: run.finishedAt ? `${moment(run.finishedAt)} UTC` : null,
    Time: `${duration(run)}${limit}`,
    Memory: `${count(run.options.memoryMbytes)} MB`,
    Usage: run.usageTotalUsd >= 0.00005 ? `$${run.usageTotalUsd.toFixed(4)}` : null,
  };
  const known = Object.entries(facts).filter(([, value]) => value !== null);
  byId("run-facts").replaceChildren(...known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

// The log is read only while the tab is in front: a browser opens few connections to one server.
async function followLog(view) {
  const log = byId("log");
  log.replaceChildren();
  while (!view.signal.aborted) {
    const hidden = new AbortController();
    const hide = () => document.hidden && hidden.abort();
    document.addEventListener("visibilitychange", hide);
    try {
      await readLog(view, log, AbortSignal.any([view.signal, hidden.signal]));
      return;
    } catch (error) {
      if (error.isFinal) {
        byId("log-note").textContent = error.message;
        return;
      }
    } finally {
      document.removeEventListener("visibilitychange", hide);
    }
    await pause();
  }
}

// Reads the log until the Run ends, and leaves out what an earlier reading has shown.
async function readLog(view, log, signal) {
  const answer = await ask(`${view.path}/log?stream=1`, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let toSkip = view.seen;
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    signal.throwIfAborted();
    const text = part.value.slice(toSkip);
    toSkip -= Math.min(toSkip, part.value.length);
    view.seen += text.length;
    appendToLog(view, log, text);
  }
  if (view.seen === 0) byId("log-note").textContent = "empty";
}

// Added once per frame: a long log comes in many pieces.
function appendToLog(view, log, text) {
  const isWaiting = view.unshown !== "";
  view.unshown += text;
  if (isWaiting || text === "") return;
  requestAnimationFrame(() => {
    if (view !== shown) return;
    const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(view.unshown.slice(-MAX_LOG_CHARS));
    view.unshown = "";
    let chars = log.textContent.length;
    for (let first = log.firstChild; chars > MAX_LOG_CHARS && first !== log.lastChild; first = log.firstChild) {
      chars -= first.length;
      first.remove();
    }
    byId("log-note").textContent = view.seen > chars ? `the last ${size(chars)}` : "";
    if (isAtEnd) log.scrollTop = log.scrollHeight;
  });
}

async function showItems(view) {
  const dataset = await data(`/v2/datasets/${view.dataset}`, view.signal);
  const { itemCount: total, stats } = dataset;
  const mean = total > 0 ? stats.storageBytes / total : 1;
  const limit = Math.min(ITEMS_AT_ONCE, Math.max(1, Math.floor(ITEMS_BYTES / mean)));
  const { offset } = view;
  const table = byId("items");
  const state = JSON.stringify([view.dataset, offset, Math.min(total, offset + limit)]);
  if (table.shown !== state) {
    const answer = await ask(`/v2/datasets/${view.dataset}/items?${query({ offset, limit })}`, view.signal);
    const items = JSON.parse(await answer.text(), exact);
    if (view.offset !== offset) return;
    table.shown = state;
    fillItems(table, items, offset);
  }
  byId("items-note").textContent = `${count(total)} ${total === 1 ? "item" : "items"}${table.said ?? ""}`;
  const file = (format) => withQuery(ownPath(dataset.itemsPublicUrl), `format=${format}&attachment=1`);
  downloadLinks(byId("items-files"), total > 0 ? { CSV: file("csv"), JSON: file("json"), Excel: file("xlsx") } : {});
  showEmptiness(table, total === 0);
  fillPager(table, { total, offset, limit }, (to) => `#/runs/${encodeURIComponent(view.id)}?${query({ items: to })}`);
}

// Rows that are there stay: a dataset only grows.
function fillItems(table, items, offset) {
  const rows = items.map((item) => (isObject(item) ? item : { value: item }));
  const all = [...new Set(rows.flatMap(Object.keys))];
  const columns = all.slice(0, MAX_COLUMNS);
  table.said = all.length > columns.length ? `; the first ${columns.length} of ${count(all.length)} columns` : "";
  const body = table.tBodies[0];
  const layout = JSON.stringify([offset, columns]);
  if (table.layout !== layout || items.length === 0) {
    table.layout = layout;
    const number = el("th", { scope: "col", class: "number" }, "#");
    table.tHead.replaceChildren(el("tr", {}, number, ...columns.map((column) => el("th", { scope: "col" }, column))));
    body.replaceChildren();
    table.parentElement.scrollTo(0, 0);
  }
  for (let at = body.rows.length; at < rows.length; at += 1) {
    const number = cell("number soft", count(offset + at + 1));
    body.append(el("tr", {}, number, ...columns.map((column) => itemCell(rows[at], column))));
  }
}

const itemTd = (content) => el("td", {}, el("div", {}, content));
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

function itemCell(item, column) {
  if (!Object.hasOwn(item, column)) return el("td", {});
  const value = item[column];
  if (value === null) return itemTd(el("i", { class: "soft" }, "null"));
  const isRaw = JSON.isRawJSON?.(value);
  const text = isRaw ? value.rawJSON : typeof value === "object" ? JSON.stringify(value) : String(value);
  if (text.length <= CELL_CHARS) return itemTd(text);
  const summary = el("summary", {}, `${text.slice(0, CELL_CHARS)}…`);
  const details = el("details", {}, summary);
  const whole = () => (typeof value === "object" ? JSON.stringify(value, null, 2) : text);
  details.addEventListener("toggle", () => details.append(el("pre", {}, whole())), { once: true });
  return itemTd(details);
}

// The keys are listed only after a change: each listing counts as usage of the Run.
async function showValues(view) {
  const path = `/v2/key-value-stores/${view.store}`;
  const { stats, modifiedAt, recordsPublicUrl } = await data(path, view.signal);
  const state = JSON.stringify([view.values, modifiedAt, stats.writeCount, stats.deleteCount]);
  if (view.valuesState === state) return;
  const { items, isTruncated } = await data(`${path}/keys?${query({ limit: view.values })}`, view.signal);
  view.valuesState = state;
  fill(byId("values"), items.map(valueEntry));
  const isMost = view.values === MAX_VALUES;
  byId("values-note").textContent = isTruncated && isMost ? `the first ${count(items.length)}` : "";
  byId("values-more").hidden = !isTruncated || isMost;
  downloadLinks(byId("values-files"), items.length > 0 ? { ZIP: ownPath(recordsPublicUrl) } : {});
}

function valueEntry({ key, size: bytes, recordPublicUrl }) {
  const path = ownPath(recordPublicUrl);
  const make = () => {
    const open = link(path, "Open", { target: "_blank", rel: "noreferrer", "aria-label": `Open ${key}` });
    const load = link(withQuery(path, "attachment=1"), "Download", { download: "", "aria-label": `Download ${key}` });
    const links = el("span", { class: "links" }, size(bytes), open, load);
    return el("li", {}, links, bytes > SHOWN_BYTES ? el("span", { class: "key" }, key) : valueDetails(key, path));
  };
  return [key, JSON.stringify([bytes, path]), make];
}

function valueDetails(key, path) {
  const place = el("pre", { tabindex: "0" });
  const details = el("details", {}, el("summary", {}, key), place);
  details.addEventListener("toggle", async () => {
    if (details.open) place.textContent = await valueText(path).catch((error) => error.message);
  });
  return details;
}

async function valueText(path, signal) {
  const answer = await ask(path, signal);
  const type = answer.headers.get("Content-Type") ?? "";
  if (!/^(text\/|application\/([\w.-]+\+)?(json|xml|javascript)\b)/.test(type)) {
    await answer.body.cancel();
    return `Not text: ${type}`;
  }
  const text = await answer.text();
  if (!/json/.test(type)) return text;
  try {
    return JSON.stringify(JSON.parse(text, exact), null, 2);
  } catch {
    return text;
  }
}

async function showInput(view, run) {
  const place = byId("input");
  place.textContent = "";
  const key = run.metamorphs?.at(-1).inputKey ?? "INPUT";
  if (run.stats.inputBodyLen > SHOWN_BYTES) {
    place.textContent = `The input has ${size(run.stats.inputBodyLen)}; it is ${key} of the key-value store.`;
    return;
  }
  const path = `/v2/key-value-stores/${view.store}/records/${encodeURIComponent(key)}`;
  const sayWhy = (error) => (error.status === 404 ? "No input." : error.message);
  place.textContent = await valueText(path, view.signal).catch(sayWhy);
}

byId("log-whole").addEventListener("click", async () => {
  try {
    const whole = await (await ask(`${shown.path}/log`)).blob();
    const file = el("a", { download: `${shown.id}.log` });
    file.href = URL.createObjectURL(whole);
    file.click();
    URL.revokeObjectURL(file.href);
  } catch (error) {
    byId("log-note").textContent = error.message;
  }
});

byId("values-more").addEventListener("click", () => {
  shown.values = Math.min(MAX_VALUES, shown.values + VALUES_AT_ONCE);
  inPlace("values-note", () => showValues(shown)).catch(() => {});
});

// The address

let view = new AbortController();
let place = null;

// The key to the API in the page's address, as `batchrun serve` prints it; only this tab keeps it.
async function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  history.replaceState(null, "", location.pathname);
  await take(given);
}

async function route() {
  try {
    await takeToken();
  } catch (error) {
    refuse(error, true);
    return;
  }
  const [path, words] = (location.hash.slice(1) || "/").split("?");
  const chosen = Object.fromEntries(new URLSearchParams(words));
  const id = /^\/runs\/([^/]+)$/.exec(path)?.[1];
  const offset = Number(chosen.items) || 0;
  if (id !== undefined && place === path && shown.dataset !== "" && !view.signal.aborted) {
    shown.offset = offset;
    await inPlace("items-note", () => showItems(shown)).catch((error) => tell(error.message, true));
    return;
  }
  view.abort();
  view = new AbortController();
  const { signal } = view;
  const isFirst = place === null;
  const isOther = place !== path;
  place = path;
  try {
    if (isOther && !isFirst) {
      show("", "Loading…");
      byId("title").focus();
      scrollTo(0, 0);
    }
    if (id !== undefined) await showRun(decodeURIComponent(id), offset, signal);
    else if (path === "/") await showOverview(chosen, signal);
    else throw new Problem("This page does not exist.", 404);
  } catch (error) {
    if (signal.aborted) return;
    view.abort();
    refuse(error);
  }
}

function refuse(error, isOfToken = sessionStorage.getItem(TOKEN) !== null) {
  if (error.status === 401 || (error.status === 403 && sessionStorage.getItem(TOKEN) === null)) {
    sessionStorage.removeItem(TOKEN);
    show("entry", "Enter the API token");
    tell(isOfToken ? "The server does not accept this token." : "", true);
    byId("token").value = "";
    byId("token").focus();
    return;
  }
  show("", error.status === 404 ? "Not found" : "Not shown");
  tell(error.message, true);
}

byId("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  names.clear();
  try {
    await take(byId("token").value.trim());
  } catch (error) {
    refuse(error, true);
    return;
  }
  route();
});
addEventListener("hashchange", route);
route();
