// The batches that are selected in the list, on whatever page of it, and the bar with the orders to them.

import { BULK_ORDERS, listed, obeyAll } from "./bulk_orders.js";
import { button, byId, el, say, setText } from "./elements.js";
import { count, counted } from "./words.js";

// `all` returns what the list asks for, without its place in it.
export function makeSelection(all) {
  // By id, as they were seen last.
  const chosen = new Map();
  let [shown, total, last] = [[], 0, null];
  const boxes = new Map();

  const said = el("span", { role: "status" });
  const orders = Object.entries(BULK_ORDERS).map(([order, [text]]) =>
    button(`${text}…`, () => carryOut(order), { "data-order": order }),
  );
  const everything = button("", chooseAll);
  const none = button("Select none", () => (clear(), whole.focus()));
  const bar = el(
    "div",
    { class: "selection", role: "group", "aria-label": "Selected batches", hidden: true },
    said,
    el("span", { class: "buttons" }, ...orders, everything, none),
  );
  const whole = el("input", { type: "checkbox", "aria-label": "Select all batches of this page", onchange: choosePage });

  function choosePage() {
    for (const batch of shown) choose(batch, whole.checked);
    refresh();
  }

  async function chooseAll() {
    try {
      for (const batch of await listed(all(), () => true)) choose(batch, true);
    } catch (error) {
      say(error.message);
    }
    refresh();
  }

  function choose(batch, isChosen) {
    if (isChosen) chosen.set(batch.id, batch);
    else chosen.delete(batch.id);
  }

  function clear() {
    chosen.clear();
    refresh();
  }

  // One box per row. With Shift, all between this one and the last one are treated alike.
  function makeBox() {
    const box = el("input", { type: "checkbox" });
    let id = null;
    box.addEventListener("click", (event) => {
      const [from, to] = [last, id].map((each) => shown.findIndex((batch) => batch.id === each));
      const range = event.shiftKey && from >= 0 ? shown.slice(Math.min(from, to), Math.max(from, to) + 1) : [shown[to]];
      for (const batch of range) choose(batch, box.checked);
      last = id;
      refresh();
    });
    function show(batch) {
      id = batch.id;
      boxes.set(id, box);
      box.checked = chosen.has(id);
      box.setAttribute("aria-label", `Select ${batch.name}`);
    }
    return { node: box, show };
  }

  function refresh() {
    const batches = [...chosen.values()];
    for (const { id } of shown) boxes.get(id).checked = chosen.has(id);
    const here = shown.filter(({ id }) => chosen.has(id)).length;
    whole.checked = here > 0 && here === shown.length;
    whole.indeterminate = here > 0 && here < shown.length;
    bar.hidden = batches.length === 0;
    if (bar.hidden) return;
    setText(said, `${counted(batches.length, "batch")} selected`);
    for (const each of orders) {
      const able = batches.filter(({ can }) => can.includes(each.dataset.order)).length;
      each.disabled = able === 0;
      const [text] = BULK_ORDERS[each.dataset.order];
      setText(each, able > 0 && able < batches.length ? `${text} ${count(able)}…` : `${text}…`);
    }
    everything.hidden = total <= shown.length || batches.length >= total || here < shown.length;
    setText(everything, `Select all ${count(total)}`);
  }

  async function carryOut(order) {
    try {
      // Those of other pages have changed since they were seen.
      const here = shown.filter(({ id }) => chosen.has(id));
      const now = here.length === chosen.size ? here : await listed({}, ({ id }) => chosen.has(id));
      if (!(await obeyAll(order, now))) return;
      clear();
      byId("view").querySelector("h1")?.focus();
    } catch (error) {
      say(error.message);
    }
  }

  function show(items, inAll) {
    [shown, total] = [items, inAll];
    for (const batch of items) if (chosen.has(batch.id)) chosen.set(batch.id, batch);
    refresh();
  }

  return { bar, whole, makeBox, show };
}
