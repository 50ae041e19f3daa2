// Records or items of a batch as a table, newest first, that can be searched and downloaded.

import { pathOf, query, readExactly } from "./api.js";
import { download } from "./downloads.js";
import { button, card, cell, el, labelled, searchInput, setText, statusLine, swatch } from "./elements.js";
import { OUTCOMES } from "./outcome_bar.js";
import { showLog } from "./run_log.js";
import { count, counted, duration, moment, money, size, spaced } from "./words.js";

const AT_ONCE = 50;
const MAX_COLUMNS = 40;
const CELL_CHARS = 80;
const FILES = { csv: "CSV", jsonl: "JSONL", xlsx: "Excel" };
// A number, also one whose digits were kept.
const numberOf = (value) => Number(JSON.isRawJSON?.(value) ? value.rawJSON : value);
const RECORD_COLUMNS = {
  Job: (record) => record.key,
  Outcome: (record) => spaced(record.outcome ?? ""),
  Attempts: (record) => count(record.attempts?.length ?? 0),
  Items: (record) => (record.items ? count(numberOf(record.items.count ?? 0)) : ""),
  Cost: (record) =>
    record.cost_usd === null || record.cost_usd === undefined ? "unknown" : money(numberOf(record.cost_usd)),
  Took: (record) => (record.times?.run_s == null ? "" : duration(numberOf(record.times.run_s))),
  Ended: (record) => moment(record.times?.finished_at),
  Error: (record) => record.error?.message ?? "",
};

export function showLines({ place, id, base, kind, params, signal }) {
  const what = kind === "records" ? "record" : "item";
  const search = searchInput("line-search", "Any text");
  const outcome = el(
    "select",
    { id: "line-outcome" },
    el("option", { value: "" }, "any"),
    ...OUTCOMES.map((each) => el("option", { value: each }, spaced(each))),
  );
  const [head, body] = [el("tr"), el("tbody")];
  const frame = el(
    "div",
    { class: "scroll tall", role: "group", tabindex: "0", "aria-label": `Table of ${what}s` },
    el("table", { class: "lines" }, el("thead", {}, head), body),
  );
  const note = statusLine();
  const more = button("Show older", () => next(), { hidden: true });
  const newest = button("Show the newest", () => restart(), { hidden: true });
  const files = el(
    "span",
    { class: "files" },
    "Download ",
    ...Object.entries(FILES).map(([format, text]) =>
      button(text, () => download(id, kind, { format }), { "aria-label": `Download all ${what}s as ${text}` }),
    ),
  );
  const form = el(
    "form",
    { class: "filters", onsubmit: (event) => (event.preventDefault(), go()) },
    labelled("Search", search),
    labelled("Outcome", outcome),
    el("button", { type: "submit" }, "Search"),
    files,
  );
  outcome.addEventListener("change", () => go());
  search.addEventListener("search", () => go());
  place.append(
    card(kind === "records" ? "Records" : "Items", form, frame, note, el("div", { class: "buttons" }, more, newest)),
  );
  let [asked, before, size_, rows, columns, settled] = [{}, null, 0, 0, [], null];

  function go() {
    const words = query({ search: search.value, outcome: outcome.value });
    const to = `${base}/${kind}${words ? `?${words}` : ""}`;
    if (to !== location.hash) location.hash = to;
  }

  function move(now) {
    asked = { search: now.search ?? "", outcome: OUTCOMES.includes(now.outcome) ? now.outcome : "" };
    [search.value, outcome.value] = [asked.search, asked.outcome];
    restart();
  }

  function restart() {
    asked = { ...asked }; // what was asked before this is too late
    [before, rows, columns] = [null, 0, []];
    body.replaceChildren();
    newest.hidden = true;
    next();
  }

  async function next() {
    const now = asked;
    const words = query({ ...asked, before, limit: AT_ONCE });
    setText(note, "Reading…");
    more.disabled = true;
    const found = await readExactly(`${pathOf(id)}/${kind}/page?${words}`, signal).catch((error) => error);
    if (signal.aborted || now !== asked) return;
    more.disabled = false;
    if (found instanceof Error) return setText(note, found.message);
    [before, size_] = [found.before, found.size];
    fill(found.lines);
    more.hidden = before === 0;
    setText(more, asked.search || asked.outcome ? "Search further" : "Show older");
    frame.hidden = rows === 0;
    setText(note, told());
  }

  function told() {
    const isSearch = asked.search || asked.outcome;
    if (size_ === 0) {
      return kind === "records"
        ? "No record yet. Each job that ends leaves one: its outcome, its attempts, its cost."
        : "No item yet. Items are what the Runs have put into their datasets; they come here once a Run has ended.";
    }
    const searched = before === 0 ? "" : `, in the newest ${size(size_ - before)} of ${size(size_)}`;
    if (isSearch) return `${rows ? counted(rows, what) : `No ${what}`} found${searched}.`;
    return before === 0 ? `All ${counted(rows, what)}, newest first.` : `The newest ${counted(rows, what)}.`;
  }

  function fill(lines) {
    const objects = lines.map(({ line, bytes }) =>
      bytes !== undefined ? { "too large to show": size(bytes) } : isObject(line) ? line : { value: line },
    );
    if (kind === "records") columns = Object.keys(RECORD_COLUMNS);
    else columns = ordered([...new Set([...columns, ...objects.flatMap(Object.keys)])]).slice(0, MAX_COLUMNS);
    head.replaceChildren(...columns.map((column) => el("th", { scope: "col" }, column)));
    for (const object of objects) body.append(rowOf(object));
    rows += objects.length;
    // A column that only a later item has.
    for (const row of body.rows) while (row.cells.length < columns.length) row.append(el("td"));
  }

  function rowOf(object) {
    if (kind !== "records") return el("tr", {}, ...columns.map((column) => valueCell(object[column])));
    const values = Object.values(RECORD_COLUMNS).map((make) => make(object));
    const row = el("tr", {}, ...values.map((value) => cell("", el("div", {}, value ?? ""))));
    row.cells[1].firstElementChild.prepend(swatch(object.outcome));
    const details = el("details", {}, el("summary", {}, object.key ?? "–"));
    details.addEventListener("toggle", () => details.append(...contentOf(object)), { once: true });
    row.cells[0].replaceChildren(el("div", {}, details));
    return row;
  }

  function contentOf(record) {
    const runId = record.run?.id;
    const title = `Log of ${record.key}`;
    const log = runId ? button("Log", () => showLog(id, runId, title), { "aria-label": title }) : "";
    return [log, el("pre", {}, pretty(record))];
  }

  // New lines are announced, not put into a table that is being read.
  function show(batch) {
    if (settled !== null && batch.jobs.settled > settled && rows > 0) newest.hidden = false;
    else if (settled !== null && batch.jobs.settled > settled) restart();
    settled = batch.jobs.settled;
  }

  move(params);
  return { show, move };
}

const isObject = (value) =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !JSON.isRawJSON?.(value);
const pretty = (value) => JSON.stringify(value, null, 2);

// Ours, which say whose an item is, come last, except the key.
const ordered = (names) => [
  ...names.filter((name) => name === "_key"),
  ...names.filter((name) => !name.startsWith("_")),
  ...names.filter((name) => name.startsWith("_") && name !== "_key"),
];

function valueCell(value) {
  if (value === undefined) return el("td");
  if (value === null) return cell("", el("i", { class: "soft" }, "null"));
  const isRaw = JSON.isRawJSON?.(value);
  const text = isRaw ? value.rawJSON : typeof value === "object" ? JSON.stringify(value) : String(value);
  if (text.length <= CELL_CHARS) return cell("", el("div", {}, text));
  const details = el("details", {}, el("summary", {}, `${text.slice(0, CELL_CHARS)}…`));
  details.addEventListener(
    "toggle",
    () => details.append(el("pre", {}, typeof value === "object" ? pretty(value) : text)),
    { once: true },
  );
  return cell("", el("div", {}, details));
}
