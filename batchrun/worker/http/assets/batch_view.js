// One batch: its state and orders at the top, and below one of its tabs, each with an address of its own.

import { showEvents } from "./batch_events.js";
import { obey } from "./batch_orders.js";
import { showOverview } from "./batch_overview.js";
import { showSettings } from "./batch_settings.js";
import { advice, doing, TONES } from "./batch_states.js";
import { button, el, link, setText, swatch } from "./elements.js";
import { showFailures } from "./failures.js";
import { showRuns } from "./live_runs.js";
import { failedOf } from "./outcome_bar.js";
import { showLines } from "./records_and_items.js";
import { count, spaced } from "./words.js";

const TABS = {
  overview: ["Overview", showOverview, () => null],
  runs: ["Live Runs", showRuns, (batch) => batch.live_runs],
  failures: ["Failures", showFailures, failedOf],
  records: ["Records", showLines, (batch) => batch.jobs.settled],
  items: ["Items", showLines, (batch) => batch.items],
  events: ["Events", showEvents, () => null],
  settings: ["Settings", showSettings, () => null],
};
const ORDERS = { pause: "Pause", resume: "Resume", cancel: "Cancel…", delete: "Delete…" };

export function openBatch({ place, parts: [id, first], params, signal }) {
  const view = { title: id, words: `batch=${encodeURIComponent(id)}` };
  const base = `#/batches/${encodeURIComponent(id)}`;
  let batch = null;
  let tab = null;
  let tabEnd = new AbortController();

  const [name, mark, state] = [el("h1", { tabindex: "-1" }, id), swatch("open"), el("b")];
  const [line, why, hint] = [el("span"), el("p", { class: "why" }), el("p", { class: "why" })];
  const buttons = Object.entries(ORDERS).map(([order, text]) =>
    button(text, () => carryOut(order), { "data-order": order, hidden: true }),
  );
  const tabs = Object.entries(TABS).map(([key, [text]]) =>
    el("li", {}, link(key === "overview" ? base : `${base}/${key}`, text, { "data-tab": key })),
  );
  const content = el("div", { class: "tab" });
  place.append(
    el("nav", { "aria-label": "Back" }, link("#/", "← Batches")),
    el(
      "div",
      { class: "head" },
      el("div", {}, name, el("p", { class: "state" }, mark, state, " · ", line), why, hint),
      el("div", { class: "buttons" }, ...buttons),
    ),
    el("nav", { class: "tabs", "aria-label": "Parts of the batch" }, el("ul", {}, ...tabs)),
    content,
  );

  async function carryOut(order) {
    if (batch !== null && (await obey(order, batch)) && order === "delete") location.hash = "#/";
  }

  // Live parts of a tab end with it.
  view.move = ([, wanted], now) => {
    const key = wanted in TABS ? wanted : "overview";
    for (const { firstElementChild: each } of tabs) {
      each.ariaCurrent = each.dataset.tab === key ? "page" : null;
      if (each.ariaCurrent) each.scrollIntoView({ inline: "center", block: "nearest" });
    }
    if (tab?.key === key && tab.move) return tab.move(now);
    tabEnd.abort();
    tabEnd = new AbortController();
    content.replaceChildren();
    const context = {
      place: content,
      id,
      base,
      kind: key,
      params: now,
      signal: AbortSignal.any([signal, tabEnd.signal]),
    };
    tab = { key, ...TABS[key][1](context) };
    if (batch !== null) tab.show?.(batch);
  };

  view.show = ({ batch: now }) => {
    if (now === null) return view.gone("This batch is deleted.");
    if (now === undefined) return;
    batch = now;
    view.title = batch.name;
    setText(name, batch.name);
    mark.className = `swatch tone-${TONES[batch.state]}`;
    setText(state, spaced(batch.state));
    setText(line, doing(batch));
    setText(why, batch.attention || batch.reason || batch.waits);
    setText(hint, advice(batch));
    why.className = batch.attention ? "why trouble" : "why soft";
    for (const button of buttons) button.hidden = !batch.can.includes(button.dataset.order);
    for (const { firstElementChild: each } of tabs) {
      const [text, , number] = TABS[each.dataset.tab];
      const shown = number(batch);
      setText(each, shown ? `${text} ${count(shown)}` : text);
    }
    tab?.show?.(batch);
  };

  view.gone = (message) => {
    tabEnd.abort();
    place.replaceChildren(
      el("nav", {}, link("#/", "← Batches")),
      el("h1", { tabindex: "-1" }, "Not found"),
      el("p", {}, message),
    );
    view.title = "Not found";
    view.show = undefined;
  };

  view.move([id, first], params);
  return view;
}
