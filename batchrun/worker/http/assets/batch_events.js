// What has happened to a batch: its notices, and its log, newest line first.

import { pathOf, query, readExactly } from "./api.js";
import { download } from "./downloads.js";
import { button, card, cell, el, labelled, searchInput, setText, statusLine, table } from "./elements.js";
import { noticesCard } from "./notices_card.js";
import { moment } from "./words.js";

const AT_ONCE = 100;
const HIDDEN = new Set(["timestamp", "level", "event", "batch"]);

export function showEvents({ place, id, base, params, signal }) {
  const notices = noticesCard();
  const body = el("tbody");
  const search = searchInput("log-search", "Any text, such as a job key");
  const frame = table(
    "Log",
    [
      ["Time", "time"],
      ["Event", ""],
      ["Details", ""],
    ],
    body,
  );
  frame.classList.add("tall");
  const note = statusLine();
  const more = button("Show older", () => next(), { hidden: true });
  const newest = button("Read again", () => restart());
  const whole = button("Download", () => download(id, "log"), { "aria-label": "Download the log" });
  const form = el(
    "form",
    { class: "filters", onsubmit: (event) => (event.preventDefault(), go()) },
    labelled("Search", search),
    el("button", { type: "submit" }, "Search"),
    newest,
    whole,
  );
  place.append(
    el("div", { class: "cards" }, notices.node, card("Log", form, frame, note, el("div", { class: "buttons" }, more))),
  );
  // A turn ends when the log is read from its end again.
  let [asked, before, turn] = ["", null, 0];

  function go() {
    const words = query({ search: search.value });
    location.hash = `${base}/events${words ? `?${words}` : ""}`;
  }

  function move(now) {
    asked = search.value = now.search ?? "";
    restart();
  }

  function restart() {
    before = null;
    turn += 1;
    body.replaceChildren();
    next();
  }

  async function next() {
    const own = turn;
    more.disabled = true;
    const found = await readExactly(
      `${pathOf(id)}/log/page?${query({ search: asked, before, limit: AT_ONCE })}`,
      signal,
    ).catch((error) => error);
    if (signal.aborted || own !== turn) return;
    more.disabled = false;
    if (found instanceof Error) return setText(note, found.message);
    before = found.before;
    body.append(...found.lines.map(({ line }) => rowOf(line ?? {})));
    more.hidden = before === 0;
    frame.hidden = body.childElementCount === 0;
    setText(
      note,
      body.childElementCount ? "" : asked ? "No line of the log has this text." : "The log is empty so far.",
    );
  }

  move(params);
  return { show: notices.show, move };
}

function rowOf(line) {
  const details = Object.entries(line)
    .filter(([key]) => !HIDDEN.has(key))
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join("  ");
  const isTrouble = ["warning", "error", "critical"].includes(line.level);
  return el(
    "tr",
    {},
    cell("time", moment(line.timestamp)),
    cell(
      isTrouble ? "trouble" : "",
      `${isTrouble ? `${line.level}: ` : ""}${String(line.event ?? "").replaceAll("_", " ")}`,
    ),
    cell("text", el("code", {}, details.slice(0, 2000))),
  );
}
