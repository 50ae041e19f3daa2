// The live page: which view the address names, and the events that keep it up to date.

import { dropKey, events, Problem, takeKey } from "./api.js";
import { openBatch } from "./batch_view.js";
import { openList } from "./batch_list.js";
import { byId, el, link, setText } from "./elements.js";
import { openSubmit } from "./submit_view.js";
import { showSign } from "./tab_sign.js";
import { openWorker } from "./worker_view.js";

const RECONNECT_MS = 2000;
const LOST = "The connection is lost; reconnecting. The page is out of date.";
const VIEWS = [
  [/^\/$/, openList],
  [/^\/batches\/([^/]+)(?:\/(\w+))?$/, openBatch],
  [/^\/submit$/, openSubmit],
  [/^\/worker$/, openWorker],
];

const frame = byId("view");
let view = null;
// Ends the view, or only its stream of events.
let [viewEnd, eventsEnd] = [new AbortController(), new AbortController()];
let worker = null;

function tell(text, isTrouble = false) {
  setText(byId("connection"), text);
  byId("connection").className = isTrouble ? "trouble" : "live";
}

function sign(isLost = false) {
  const isInTrouble = worker !== null && !worker.is_ready;
  showSign(view.title, { attention: worker?.attention ?? 0, isInTrouble, isLost });
}

async function route() {
  await takeKey();
  const [path, words] = (location.hash.slice(1) || "/").split("?");
  const params = Object.fromEntries(new URLSearchParams(words));
  const [found, open] = VIEWS.map(([pattern, opener]) => [pattern.exec(path), opener]).find(([match]) => match) ?? [];
  const parts = found?.slice(1).map((each) => each && decodeURIComponent(each)) ?? [];
  markPlace(path);
  const isSame = view !== null && view.open === open && view.key === parts[0] && view.move !== undefined;
  if (isSame) {
    view.move(parts, params);
  } else {
    const isFirst = view === null;
    viewEnd.abort();
    viewEnd = new AbortController();
    frame.replaceChildren();
    view = (open ?? openNothing)({ place: frame, parts, params, signal: viewEnd.signal });
    Object.assign(view, { open, key: parts[0] });
    if (worker !== null) view.show?.({ worker });
    if (!isFirst) frame.querySelector("h1")?.focus();
    if (!isFirst) scrollTo(0, 0);
  }
  sign();
  if (!isSame || view.words !== view.heard) listen();
}

function markPlace(path) {
  for (const each of document.querySelectorAll(".top nav a")) {
    const own = each.hash.slice(1);
    const isHere = own === "/" ? path === "/" || path.startsWith("/batches/") : path === own;
    each.ariaCurrent = isHere ? "page" : null;
  }
}

function openNothing({ place }) {
  place.append(
    el("h1", { tabindex: "-1" }, "Not found"),
    el("p", {}, "This page does not exist. ", link("#/", "Batches")),
  );
  return { title: "Not found" };
}

// Show what the worker reports, until the view or its question changes.
async function listen() {
  eventsEnd.abort();
  eventsEnd = new AbortController();
  const { signal } = eventsEnd;
  const words = (view.heard = view.words ?? "limit=0");
  while (!signal.aborted) {
    try {
      for await (const news of events(words, signal)) {
        if (signal.aborted) return;
        tell("live");
        worker = news.worker ?? worker;
        view.show?.(news);
        sign();
      }
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      if (error.status === 401) return refuse();
      if (error.status === 404) return view.gone?.(error.message);
      if (error.status > 0) tell(error.message, true);
    }
    if (signal.aborted) return;
    tell(LOST, true);
    sign(true);
    await new Promise((done) => setTimeout(done, RECONNECT_MS));
  }
}

function refuse() {
  tell(
    "This page needs the link that batchrun worker page prints, which opens it once; a restarted worker has a new one.",
    true,
  );
  viewEnd.abort();
  frame.replaceChildren(
    el("h1", { tabindex: "-1" }, "This page is closed"),
    el(
      "p",
      {},
      "A link opens it in this browser, until the worker stops. On the worker's machine, this prints a new one:",
    ),
    el("p", {}, el("code", { class: "command" }, "batchrun worker page --data DIR")),
  );
  view = { title: "Closed" };
  sign(true);
  dropKey(route);
}

addEventListener("hashchange", route);
route();
