// The list of batches: what needs attention first. The worker filters, sorts and cuts it into pages.

import { query } from "./api.js";
import { TONES, tookWords } from "./batch_states.js";
import { cell, el, fillPager, fillRows, labelled, link, searchInput, setText, swatch } from "./elements.js";
import { failedOf, makeBar, wholeOf } from "./outcome_bar.js";
import { makeSelection } from "./selection.js";
import { count, counted, duration, moment, money, percent, rate, spaced } from "./words.js";

const AT_ONCE = 50;
const TYPING_MS = 250;
const GROUPS = {
  all: "All",
  attention: "Need attention",
  under_way: "Under way",
  paused: "Paused",
  finished: "Ended",
  failures: "With failures",
};
// Heading, what it sorts by, class.
const COLUMNS = [
  ["State", "state", ""],
  ["Batch", "name", ""],
  ["Progress", "done", "bar"],
  ["Failed", "failed", "number"],
  ["Live", null, "number minor"],
  ["Rate", "rate", "number minor"],
  ["To go", "eta", "number minor"],
  ["Cost", "cost", "number"],
  ["Started", "started", "time minor"],
  ["Took", "took", "number minor"],
];

export function openList({ place, params, signal }) {
  const view = { title: "Batches", words: "" };
  let asked = {};
  let groups = null;

  const summary = el("p", { class: "soft" });
  const chips = el("ul", { class: "choices" });
  const search = searchInput("search", "Name or id");
  const sort = el(
    "select",
    { id: "sort", onchange: () => go({ sort: sort.value, offset: "" }) },
    el("option", { value: "" }, "what needs attention"),
    el("option", { value: "newest" }, "newest"),
    ...COLUMNS.filter(([, by]) => by).map(([text, by]) => el("option", { value: by }, text.toLowerCase())),
  );
  const filters = el(
    "div",
    { class: "filters" },
    chips,
    labelled("Search", search),
    el("span", { class: "field phone" }, el("label", { for: "sort" }, "Sort by"), sort),
  );
  const selection = makeSelection(() => ({ group: asked.group, search: asked.search }));
  const pickAll = el("th", { scope: "col", class: "pick" }, selection.whole);
  const head = el("tr");
  const body = el("tbody");
  const frame = el(
    "div",
    { class: "scroll", role: "group", tabindex: "0", "aria-label": "Batches" },
    el("table", { id: "batches", class: "cards-on-phone" }, el("thead", {}, head), body),
  );
  const pager = el("nav", { class: "pager", "aria-label": "Pages of batches" });
  const empty = el("div", { class: "empty", hidden: true });
  place.append(
    el(
      "div",
      { class: "head" },
      el("div", {}, el("h1", { tabindex: "-1" }, "Batches"), summary),
      link("#/submit", "Submit a batch", { class: "button main" }),
    ),
    el("section", { class: "card", "aria-label": "Batches" }, filters, selection.bar, frame, pager, empty),
  );

  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => go({ search: search.value, offset: "" }, true), TYPING_MS);
  });
  signal.addEventListener("abort", () => clearTimeout(typing));

  const address = (change) => `#/?${query({ ...asked, ...change })}`.replace(/\?$/, "");

  function go(change, isTyped = false) {
    const to = address(change);
    if (to === location.hash) return;
    // Letters of a search are no steps to go back.
    if (isTyped) location.replace(to);
    else location.hash = to;
  }

  view.move = (_parts, now) => {
    asked = { group: now.group ?? "", search: now.search ?? "", sort: now.sort ?? "", offset: now.offset ?? "" };
    view.words = query({ ...asked, sort: asked.sort || "attention", limit: AT_ONCE });
    if (document.activeElement !== search) search.value = asked.search;
    sort.value = asked.sort.replace("-", "");
    fillHead();
    fillChips();
  };

  function fillHead() {
    head.replaceChildren(
      pickAll,
      ...COLUMNS.map(([text, by, kind]) => {
        if (!by) return el("th", { scope: "col", class: kind }, text);
        const isDown = asked.sort === by;
        const isUp = asked.sort === `-${by}`;
        const to = address({ sort: isDown ? `-${by}` : isUp ? "" : by, offset: "" });
        const arrow = isDown ? " ↓" : isUp ? " ↑" : "";
        const label = `Sort by ${text.toLowerCase()}${isDown ? ", other way round" : ""}`;
        return el(
          "th",
          { scope: "col", class: kind, "aria-sort": isDown ? "descending" : isUp ? "ascending" : null },
          link(to, text + arrow, { "aria-label": `${text}. ${label}`, "data-by": by }),
        );
      }),
    );
    if (moved !== "") head.querySelector(`a[data-by="${moved}"]`)?.focus();
    moved = "";
  }

  // The heading that was pressed keeps the focus.
  let moved = "";
  head.addEventListener("click", (event) => (moved = event.target.dataset?.by ?? ""));

  function fillChips() {
    Object.entries(GROUPS).forEach(([group, text], at) => {
      const chip = (chips.children[at] ?? chips.appendChild(el("li", {}, el("a")))).firstElementChild;
      chip.href = address({ group: group === "all" ? "" : group, offset: "" });
      chip.ariaCurrent = (asked.group || "all") === group ? "true" : null;
      setText(chip, groups === null ? text : `${text} ${count(groups[group])}`);
      chip.classList.toggle("trouble", group === "attention" && groups?.attention > 0);
    });
  }

  view.show = ({ worker, list }) => {
    if (worker) showSummary(worker);
    if (!list) return;
    groups = list.groups;
    fillChips();
    fillRows(
      body,
      list.items,
      ({ id }) => id,
      () => makeRow(selection.makeBox()),
    );
    selection.show(list.items, list.total);
    fillPager(pager, { total: list.total, offset: Number(asked.offset) || 0, limit: AT_ONCE }, (offset) =>
      address({ offset: offset || "" }),
    );
    showEmptiness(list);
  };

  function showSummary(worker) {
    const limit = worker.slots.limit === null ? "" : ` of ${count(worker.slots.limit)}`;
    const spent = worker.budget
      ? ` · ${money(worker.budget.spent_usd)} of ${money(worker.budget.limit_usd)} spent`
      : "";
    const parts = worker.is_ready ? "" : `${worker.why_not_ready} · `;
    setText(summary, `${parts}${count(worker.slots.used)}${limit} slots in use${spent}`);
    summary.classList.toggle("trouble", !worker.is_ready);
    view.dataDir = worker.data_dir;
  }

  function showEmptiness({ total }) {
    frame.hidden = total === 0;
    filters.hidden = groups.all === 0;
    empty.hidden = total > 0;
    if (total > 0) return;
    if (groups.all > 0) {
      empty.replaceChildren(el("p", {}, "No batch matches. ", link("#/", "Show all")));
    } else if (!empty.querySelector("ol")) {
      empty.replaceChildren(...lessons(view.dataDir ?? "DIR"));
    }
  }

  view.move([], params);
  return view;
}

function lessons(dataDir) {
  const command = (text) => el("code", { class: "command" }, text);
  return [
    el("h2", {}, "No batches yet"),
    el(
      "p",
      { class: "soft" },
      "A batch carries out one job file: a Run of an Actor for each line, never more at once than the limits allow. There are three ways to submit one:",
    ),
    el(
      "ol",
      {},
      el("li", {}, link("#/submit", "Submit a job file in this page"), ", under a profile or with a batch file."),
      el("li", {}, "At a terminal: ", command(`batchrun worker submit shop.toml --data ${shellWord(dataDir)}`)),
      el("li", {}, "Move a batch file into ", command(`${dataDir}/spool/`), "."),
    ),
  ];
}

function makeRow(box) {
  const bar = makeBar();
  const at = Object.fromEntries(
    ["done", "failed", "live", "rate", "eta", "cost", "budget", "started", "took"].map((name) => [name, el("span")]),
  );
  const [state, name, note] = [el("span"), link("", "", { class: "name" }), el("span", { class: "why" })];
  const mark = swatch("open");
  const node = el(
    "tr",
    {},
    cell("pick", box.node),
    cell("state", mark, state),
    cell("text", name, note),
    cell("bar", bar.node, at.done),
    el("td", { class: "number failed" }, at.failed),
    cell("number minor", at.live),
    cell("number minor", at.rate),
    cell("number minor", at.eta),
    el("td", { class: "number cost" }, at.cost, at.budget),
    cell("time minor", at.started),
    cell("number minor", at.took),
  );
  at.budget.className = at.done.className = "soft small block";

  function show(batch) {
    box.show(batch);
    mark.className = `swatch tone-${TONES[batch.state]}`;
    setText(state, spaced(batch.state));
    setText(name, batch.name);
    name.href = `#/batches/${encodeURIComponent(batch.id)}`;
    setText(note, batch.attention || batch.waits || batch.worker || "");
    note.title = note.textContent;
    note.className = batch.attention ? "why trouble" : "why soft";
    bar.show(batch);
    const whole = batch.jobs.total === null ? "an unknown number" : count(wholeOf(batch));
    setText(at.done, `${count(batch.jobs.settled)} of ${whole}`);
    const failed = failedOf(batch);
    setText(at.failed, failed ? count(failed) : "–");
    at.failed.className = failed ? "trouble" : "soft";
    at.failed.parentElement.classList.toggle("minor", failed === 0);
    at.failed.title = failed
      ? `${percent(failed, batch.jobs.settled)} of the ${counted(batch.jobs.settled, "settled job")}`
      : "";
    setText(at.live, batch.live_runs ? count(batch.live_runs) : "–");
    setText(at.rate, rate(batch.settled_per_s) || "–");
    setText(at.eta, batch.eta_s === null ? "–" : duration(batch.eta_s));
    setText(at.cost, money(batch.cost_usd));
    setText(at.budget, batch.budget_usd === null ? "" : `of ${money(batch.budget_usd)}`);
    setText(at.started, batch.begun_at ? moment(batch.begun_at) : "–");
    setText(at.took, tookWords(batch));
  }
  return { node, show };
}

/** A text as one word of a shell's command. */
function shellWord(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}
