// The live page. The worker makes and escapes the markup; this script puts it into place. Everything else it shows is
// text.

const byId = (id) => document.getElementById(id);
const list = byId("batches");
// The key; only this tab keeps it. What the page's address holds, and the browser's history, is given for it once.
const KEY = "batchrun-page-key";
const given = new URLSearchParams(location.hash.slice(1)).get("key");
if (given !== null) {
  history.replaceState(null, "", location.pathname);
  const shown = { method: "POST", headers: { Authorization: `Bearer ${given}` } };
  const answer = await fetch("/v1/page-session", shown).catch(() => null);
  if (answer?.ok) sessionStorage.setItem(KEY, (await answer.json()).key);
}
const HEADERS = { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` };
const rows = new Map();
const MORE_EVERY_MS = 3000;
// Sooner than a link expires.
const LINKS_EVERY_MS = 200_000;
const RECONNECT_MS = 2000;
const QUESTIONS = {
  cancel: (name) => `Abort all live Runs of “${name}”, and stop its new starts?`,
  delete: (name) => `Delete “${name}”? A batch submitted over HTTP is deleted with its results.`,
};

function put(place, markup) {
  if (markup !== undefined && place.shown !== markup) {
    place.shown = markup;
    place.innerHTML = markup;
  }
}

function say(text) {
  byId("said").textContent = text;
}

async function ask(method, path, body) {
  const options = { method, headers: HEADERS };
  if (body !== undefined) {
    options.headers = { ...HEADERS, "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The worker does not answer.");
  }
  if (!answer.ok) {
    const problem = await answer.json().catch(() => null);
    throw new Error(problem?.error?.message ?? `The worker answers ${answer.status}.`);
  }
  return answer;
}

// Batches

function newRow(id) {
  const item = byId("batch").content.firstElementChild.cloneNode(true);
  const row = {
    id, item, name: id, askedAt: 0,
    path: `/v1/batches/${encodeURIComponent(id)}`,
    head: item.querySelector(".batch-head"),
    more: item.querySelector("details"),
    details: item.querySelector(".details"),
    links: [],
    buttons: [...item.querySelectorAll("button")],
  };
  for (const button of row.buttons) button.addEventListener("click", () => obey(row, button.dataset.order));
  for (const what of ["records", "items", "costs", "log", "report"]) {
    const link = document.createElement("a");
    link.target = "_blank";
    link.rel = "noreferrer";
    link.textContent = what;
    item.querySelector(".links").append(link);
    row.links.push(link);
  }
  row.more.addEventListener("toggle", () => showMore(row, true));
  return row;
}

function showBatch(id, news) {
  const row = rows.get(id) ?? newRow(id);
  rows.set(id, row);
  row.name = news.name;
  put(row.head, news.head);
  for (const button of row.buttons) {
    const order = button.dataset.order;
    button.hidden = order !== "limits" && !news.can.includes(order);
    button.setAttribute("aria-label", `${button.textContent} ${news.name}`);
  }
  showMore(row, false);
}

async function showMore(row, isRequested) {
  if (!row.more.open || (!isRequested && Date.now() - row.askedAt < MORE_EVERY_MS)) return;
  row.askedAt = Date.now();
  try {
    const { html, access } = await (await ask("GET", `${row.path}/details`)).json();
    put(row.details, html);
    for (const link of row.links) link.href = `${row.path}/${link.textContent}?${access}`;
  } catch (error) {
    say(error.message);
  }
}

setInterval(() => {
  for (const row of rows.values()) showMore(row, true);
}, LINKS_EVERY_MS);

function putInOrder(order) {
  const wanted = new Set(order);
  for (const [id, row] of rows) {
    if (!wanted.has(id)) {
      row.item.remove();
      rows.delete(id);
    }
  }
  let at = list.firstElementChild;
  for (const id of order) {
    const { item } = rows.get(id);
    if (item === at) at = at.nextElementSibling;
    else list.insertBefore(item, at);
  }
}

async function obey(row, order) {
  if (order === "limits") {
    await changeLimits("batch-limits-form", `Limits of ${row.name}`, row.path, await valuesOf(row));
    return;
  }
  if (order in QUESTIONS && !(await isSure(QUESTIONS[order](row.name)))) return;
  try {
    if (order === "delete") await ask("DELETE", row.path);
    else await ask("POST", `${row.path}/${order}`);
    say(order === "delete" ? `“${row.name}” is deleted.` : `“${row.name}”: ${order} requested.`);
  } catch (error) {
    say(error.message);
  }
}

function isSure(question) {
  const dialog = byId("sure");
  byId("question").textContent = question;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}

// Limits

async function valuesOf(row) {
  const view = await (await ask("GET", row.path)).json();
  return { weight: view.weight, priority: view.priority };
}

async function changeLimits(name, title, path, values) {
  const dialog = byId(name);
  const form = dialog.querySelector("form");
  byId(`${name}-title`).textContent = title;
  for (const input of form.querySelectorAll("input")) input.value = input.defaultValue = values[input.name] ?? "";
  form.querySelector(".trouble").textContent = "";
  form.onsubmit = async (event) => {
    event.preventDefault();
    const wanted = {};
    for (const input of form.querySelectorAll("input")) {
      if (input.value !== input.defaultValue) wanted[input.name] = valueOf(input.value.trim());
    }
    try {
      await ask("PATCH", path, wanted);
      dialog.close();
      say("Limits changed.");
    } catch (error) {
      form.querySelector(".trouble").textContent = error.message;
    }
  };
  dialog.showModal();
}

function valueOf(text) {
  if (text === "" || text === "none") return null;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

for (const button of document.querySelectorAll("dialog .close")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
byId("worker-limits").addEventListener("click", async () => {
  try {
    const values = await (await ask("GET", "/v1/limits")).json();
    await changeLimits("worker-limits-form", "Limits of all batches", "/v1/limits", values);
  } catch (error) {
    say(error.message);
  }
});

// Events from the worker

function show(news) {
  put(byId("worker"), news.worker);
  put(byId("slots"), news.slots);
  for (const [key, value] of Object.entries(news)) {
    if (key.startsWith("batch ")) showBatch(key.slice(6), value);
  }
  if (news.order !== undefined) putInOrder(news.order);
  if (news.total !== undefined || news.order !== undefined) {
    total = news.total ?? total;
    const left = total - list.childElementCount;
    byId("none").textContent = total === 0
      ? "No batches yet: use batchrun worker submit, or move a file into the spool."
      : left > 0 ? `${list.childElementCount} of ${total} are shown.` : "";
  }
}

let total = 0;
const LOST = "The connection is lost; reconnecting. The page is out of date.";
const REFUSED = "This page needs the link that batchrun worker page prints, which opens it once; a restarted worker has a new one.";

function tell(text, isTrouble) {
  byId("connection").textContent = text;
  byId("connection").className = isTrouble ? "trouble" : "";
}

// Not an EventSource, which cannot send the key.
async function listen() {
  while (true) {
    const answer = await fetch("/v1/events", { headers: HEADERS, cache: "no-store" }).catch(() => null);
    if (answer?.status === 401) {
      tell(REFUSED, true);
      if (byId("worker").shown === undefined) document.querySelector(".cards").remove();
      return;
    }
    if (answer?.ok) {
      tell("live", false);
      for await (const news of newsFrom(answer.body)) show(news);
    }
    tell(LOST, true);
    await new Promise((done) => setTimeout(done, RECONNECT_MS));
  }
}

async function* newsFrom(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6));
    }
  }
}

window.addEventListener("hashchange", () => location.reload());
listen();
