// Why jobs did not succeed: each cause with its count, a sample and the end of that sample's log.

import { pathOf, query, read } from "./api.js";
import { el, link, setText, swatch } from "./elements.js";
import { failedOf } from "./outcome_bar.js";
import { showLog } from "./run_log.js";
import { count, counted, spaced } from "./words.js";

const LOG_CHARS = 4000;

export function showFailures({ place, id, base, signal }) {
  const list = el("div", { class: "causes" });
  const note = el("p", { class: "soft", role: "status" }, "Reading…");
  place.append(el("section", { class: "card", "aria-label": "Failures by cause" }, note, list));
  let shown = null;

  async function refresh() {
    const found = await read(`${pathOf(id)}/failures`, signal).catch((error) => error);
    if (signal.aborted) return;
    if (found instanceof Error) {
      setText(note, found.message);
      return;
    }
    const { jobs, failures } = found;
    setText(note, jobs === 0 && found.succeeded === 0
      ? "No job has ended yet. What does not succeed is shown here by its cause, with a log of each."
      : jobs === 0
      ? "Every job that has ended so far has succeeded. What does not succeed is shown here by its cause, with a log of each."
      : `${counted(jobs, "job")} did not succeed, for ${counted(failures.length + found.other_causes, "cause")}. The most frequent is first.`);
    const opened = new Set([...list.querySelectorAll("details[open]")].map((each) => each.dataset.name));
    list.replaceChildren(...failures.map((cause) => causeOf(id, base, cause, opened)));
    if (found.other_jobs) list.append(el("p", { class: "soft" }, `${counted(found.other_jobs, "job")} more, of ${counted(found.other_causes, "other cause")}.`));
  }

  function show(batch) {
    const now = JSON.stringify(batch.outcomes);
    if (now === shown) return;
    shown = now;
    if (failedOf(batch) > 0 || list.childElementCount === 0 || note.textContent === "Reading…") refresh();
  }
  return { show };
}

function causeOf(id, base, cause, opened) {
  const heading = cause.message || cause.error_type || spaced(cause.outcome);
  const exit = cause.exit_code === null ? "" : `, exit code ${cause.exit_code}`;
  const type = cause.error_type && cause.error_type !== heading ? ` · ${cause.error_type}` : "";
  const records = link(`${base}/records?${query({ outcome: cause.outcome })}`, `Records that ${spaced(cause.outcome)}`);
  return el("article", { class: "cause" },
    el("header", {}, el("span", { class: "count" }, count(cause.count)), el("h3", {}, heading)),
    el("div", { class: "body" },
      el("p", { class: "soft" }, swatch(cause.outcome), `${spaced(cause.outcome)}${exit}${type}`),
      el("p", {}, "Such as ", el("bdi", {}, cause.key), el("span", { class: "soft" }, `, line ${count(cause.line)}`)),
      cause.log_tail === null ? null : folded("End of its log", `${cause.id} log`, cause.log_tail.slice(-LOG_CHARS), opened),
      cause.override === null ? null : folded("What it was sent", `${cause.id} override`, cause.override, opened),
      el("p", { class: "links" },
        cause.run_id === null ? null : el("button", { type: "button", "aria-label": `Log of the sample ${cause.key}`, onclick: () => showLog(id, cause.run_id, `Log of ${cause.key}`) }, "Log"),
        cause.run_url === null ? null : link(cause.run_url, "Open its Run", { target: "_blank", rel: "noreferrer" }),
        records)));
}

// A text that is opened on demand, and stays open when the causes are read again.
function folded(title, name, text, opened) {
  const details = el("details", { "data-name": name }, el("summary", {}, title), el("pre", { tabindex: "0", role: "group", "aria-label": title }, text));
  details.open = opened.has(name);
  return details;
}
