// The live Runs of a batch, oldest first, a page at a time: ten thousand cost no more than fifty.

import { ask, pathOf, query, read } from "./api.js";
import { isSure } from "./dialogs.js";
import {
  button,
  card,
  cell,
  el,
  every,
  fillPager,
  fillRows,
  isReachable,
  labelled,
  outerLink,
  say,
  searchInput,
  setText,
  table,
} from "./elements.js";
import { showLog } from "./run_log.js";
import { count, duration, money, secondsSince } from "./words.js";

const AT_ONCE = 50;
const EVERY_MS = 3000;
const TEACHING = "No Run is live. A live Run is one that the platform has started for a job and that has not ended.";
const HEADINGS = [
  ["Job", ""],
  ["Line", "number minor"],
  ["Run", "minor"],
  ["Attempt", "number minor"],
  ["Live for", "number"],
  ["Memory", "number minor"],
  ["Cost so far", "number minor"],
  ["Status message", ""],
  ["", "orders"],
];

export function showRuns({ place, id, base, params, signal }) {
  const body = el("tbody");
  const frame = table("Live Runs", HEADINGS, body);
  frame.firstElementChild.className = "cards-on-phone";
  frame.querySelector("th:last-child").append(el("span", { class: "unseen" }, "Orders"));
  const pager = el("nav", { class: "pager", "aria-label": "Pages of live Runs" });
  const none = el("p", { class: "soft", hidden: true }, TEACHING);
  const search = searchInput("run-search", "Job key, group or Run id");
  const form = el(
    "form",
    { class: "filters", onsubmit: (event) => (event.preventDefault(), go()) },
    labelled("Search", search),
    el("button", { type: "submit" }, "Search"),
  );
  search.addEventListener("search", () => go());
  const runs = card("Live Runs", form, frame, pager, none);
  setText(runs.note, "oldest first");
  place.append(runs);
  let asked = {};

  const address = (change) => `${base}/runs?${query({ ...asked, ...change })}`.replace(/\?$/, "");

  function go() {
    const to = address({ search: search.value, offset: "" });
    if (to !== location.hash) location.hash = to;
  }

  async function refresh() {
    const now = asked;
    const found = await read(`${pathOf(id)}/runs?${query({ ...now, limit: AT_ONCE })}`, signal).catch((error) => error);
    if (signal.aborted || now !== asked) return;
    setText(runs.note, found instanceof Error ? found.message : "oldest first");
    if (found instanceof Error) return;
    if (found.items.length === 0 && found.total > 0) {
      // The Runs of this page have ended; the last page is another one now.
      location.replace(address({ offset: Math.floor((found.total - 1) / AT_ONCE) * AT_ONCE || "" }));
      return;
    }
    fillRows(
      body,
      found.items,
      ({ run_id: runId }) => runId,
      (run) => makeRow(id, run),
    );
    const offset = Number(asked.offset) || 0;
    fillPager(pager, { total: found.total, offset, limit: AT_ONCE }, (to) => address({ offset: to || "" }));
    frame.hidden = found.items.length === 0;
    none.hidden = found.items.length > 0;
    setText(none, asked.search ? "No live Run is found." : TEACHING);
    form.hidden = found.total <= AT_ONCE && !asked.search;
  }

  function move(now) {
    asked = { offset: now.offset ?? "", search: now.search ?? "" };
    search.value = asked.search;
    refresh();
  }

  move(params);
  every(EVERY_MS, signal, refresh);
  return { move };
}

function makeRow(batchId, { run_id: runId, key, line, url }) {
  const [lasts, memory, cost, said, attempt] = [el("span"), el("span"), el("span"), el("span"), el("span")];
  const name = `${key}, Run ${runId}`;
  const leads = isReachable(url);
  const address = leads ? outerLink(url, "", { "aria-label": `Open Run ${runId}` }) : el("code", {}, runId);
  if (leads) address.append(el("code", {}, runId));
  const node = el(
    "tr",
    {},
    el("td", { class: "key", title: key }, key),
    cell("number minor", count(line)),
    cell("minor", address),
    cell("number minor", attempt),
    cell("number", lasts),
    cell("number minor", memory),
    cell("number minor", cost),
    cell("text said", said),
    cell(
      "orders",
      button("Log", () => showLog(batchId, runId, `Log of ${key}`), { "aria-label": `Log of ${name}` }),
      button("Abort…", () => abort(batchId, runId, key), { "aria-label": `Abort ${name}` }),
    ),
  );

  function show(run) {
    setText(attempt, count(run.attempt_no));
    setText(lasts, run.started_at ? duration(secondsSince(run.started_at)) : "–");
    lasts.title = run.timeout_s ? `ends by itself after ${duration(run.timeout_s)}` : "";
    setText(memory, run.memory_mb === null ? "–" : `${count(run.memory_mb)} MB`);
    setText(cost, run.cost_usd === null ? "–" : money(run.cost_usd));
    const words = run.status_message ?? (run.status && run.status !== "RUNNING" ? run.status.toLowerCase() : "");
    setText(said, words || "–");
    said.parentElement.classList.toggle("minor", words === "");
  }
  return { node, show };
}

async function abort(batchId, runId, key) {
  const effects = [
    `Aborts Run ${runId}.`,
    `Its job, ${key}, ends as aborted with the output so far, and is not retried by itself.`,
    "The other Runs go on.",
  ];
  if (!(await isSure("Abort this Run?", effects, "Abort the Run"))) return;
  try {
    await ask("POST", `${pathOf(batchId)}/runs/${encodeURIComponent(runId)}/abort`);
    say(`The Run of ${key} is being aborted.`);
  } catch (error) {
    say(error.message);
  }
}
