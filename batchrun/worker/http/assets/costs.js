// What a batch costs, by outcome, group or day; costs that the platform has not made final yet are read on demand.

import { ask, pathOf, read } from "./api.js";
import { UNDER_WAY } from "./batch_states.js";
import { button, card, cell, el, fillRows, labelled, say, setText, statusLine, table } from "./elements.js";
import { count, counted, money } from "./words.js";

const BY = ["outcome", "group", "day"];
const MAX_ROWS = 30;

export function costsCard(id, signal) {
  const by = el("select", { id: "cost-by", onchange: refresh }, ...BY.map((each) => el("option", {}, each)));
  const body = el("tbody");
  const headings = ["", "Runs", "Cost", "Not final"].map((text, at) => [text, at ? "number" : ""]);
  const frame = table("Costs", headings, body);
  const note = statusLine();
  const readNow = button("Read them now", readLast, { hidden: true });
  const node = card("Costs", frame, note, readNow);
  node.classList.add("half");
  node.head.append(labelled("by", by));
  node.hidden = true;
  let [batch, shown] = [null, null];

  async function refresh() {
    const asked = by.value;
    const found = await read(`${pathOf(id)}/cost?by=${asked}&most=${MAX_ROWS}`, signal).catch((error) => error);
    if (signal.aborted || asked !== by.value) return;
    if (found instanceof Error) return setText(note, found.message);
    const { rows, total, other_rows: left } = found;
    fillRows(body, [...rows, { ...total, shared: ["total"], isTotal: true }], keyOf, makeRow);
    node.hidden = total.runs === 0;
    frame.querySelector("th").textContent = `${by.value[0].toUpperCase()}${by.value.slice(1)}`;
    const open = total.open_costs;
    const parts = [
      left ? `${counted(left, `more ${asked}`)} with lower costs.` : "",
      total.unknown_costs ? `The costs of ${counted(total.unknown_costs, "Run")} are unknown.` : "",
      open ? `The costs of ${counted(open, "Run")} are not final.` : "",
    ];
    setText(note, parts.filter((each) => each).join(" "));
    readNow.hidden = open === 0 || UNDER_WAY.includes(batch.state);
  }

  async function readLast() {
    readNow.disabled = true;
    setText(note, "Reading costs that are not final yet…");
    try {
      await ask("POST", `${pathOf(id)}/cost`, { signal });
    } catch (error) {
      if (!signal.aborted) say(error.message);
    }
    readNow.disabled = false;
    if (!signal.aborted) await refresh();
  }

  // Of a batch under way only when it comes to rest: the sums of a large one take seconds.
  function show(now) {
    batch = now;
    const state = `${now.state} ${now.cost_usd}`;
    if (UNDER_WAY.includes(now.state) ? shown !== null : shown === state) return;
    shown = state;
    refresh();
  }
  return { node, show };
}

const keyOf = ({ shared, isTotal }) => `${isTotal ? "total" : "of"} ${shared[0]}`;

function makeRow({ shared: [name], isTotal }) {
  const [runs, cost, open] = [el("span"), el("span"), el("span")];
  const words = isTotal ? el("b", {}, "Total") : (name ?? "none");
  const node = el("tr", {}, cell("text", words), ...[runs, cost, open].map((each) => cell("number", each)));
  function show(row) {
    setText(runs, count(row.runs));
    setText(cost, money(row.cost_usd));
    setText(open, row.open_costs ? count(row.open_costs) : "–");
  }
  return { node, show };
}
