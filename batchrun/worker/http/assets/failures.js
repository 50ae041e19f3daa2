// Why jobs did not succeed: each cause with its count, a sample and the end of that sample's log.

import { ask, onceKey, pathOf, query, read } from "./api.js";
import { retriable, retryEffects } from "./batch_orders.js";
import { isSure } from "./dialogs.js";
import { button, el, fillRows, isReachable, link, outerLink, say, setText, statusLine, swatch } from "./elements.js";
import { failedOf } from "./outcome_bar.js";
import { showLog } from "./run_log.js";
import { count, counted, spaced } from "./words.js";

const LOG_CHARS = 4000;

export function showFailures({ place, id, base, signal }) {
  const list = el("div", { class: "causes" });
  const note = statusLine("Reading…");
  const others = el("p", { class: "soft" });
  const all = button("", () => retry(null), { hidden: true });
  place.append(
    el("section", { class: "card", "aria-label": "Failures by cause" }, el("header", {}, note, all), list, others),
  );
  let [batch, shown, canRetry] = [null, null, false];

  // Retry the jobs of one cause, or all that did not succeed.
  async function retry(cause) {
    const jobs = cause === null ? retriable(batch) : cause.count;
    if (
      !(await isSure(
        `Retry ${counted(jobs, "job")}?`,
        retryEffects([batch], jobs),
        `Retry ${counted(jobs, "job")}`,
        false,
      ))
    )
      return;
    const body = cause === null ? {} : { failures: [cause.id] };
    try {
      const { jobs: retried } = await (await ask("POST", `${pathOf(id)}/retry`, { body, headers: onceKey() })).json();
      say(`${counted(retried, "job")} will be retried.`);
      // Until the causes are read again, lest a second press orders another round.
      canRetry = false;
      showOrders();
    } catch (error) {
      say(error.message);
    }
  }

  function showOrders() {
    const isPossible = canRetry && batch.can.includes("retry");
    all.hidden = !isPossible;
    setText(all, `Retry all ${count(retriable(batch))}…`);
    for (const button of list.querySelectorAll("[data-order=retry]")) button.hidden = !isPossible;
  }

  async function refresh() {
    const found = await read(`${pathOf(id)}/failures`, signal).catch((error) => error);
    if (signal.aborted) return;
    if (found instanceof Error) {
      setText(note, found.message);
      return;
    }
    const { jobs, failures } = found;
    setText(
      note,
      jobs === 0 && found.succeeded === 0
        ? "No job has ended yet. What does not succeed is shown here by its cause, with a log of each."
        : jobs === 0
          ? "Every job that has ended so far has succeeded. What does not succeed is shown here by its cause, with a log of each."
          : `${counted(jobs, "job")} did not succeed, for ${counted(failures.length + found.other_causes, "cause")}. The most frequent is first.`,
    );
    canRetry = found.can_retry;
    fillRows(
      list,
      failures,
      (cause) => cause.id,
      (cause) => makeCause(id, base, cause, retry),
    );
    showOrders();
    setText(
      others,
      found.other_jobs
        ? `${counted(found.other_jobs, "job")} more, for ${counted(found.other_causes, "other cause")}.`
        : "",
    );
  }

  function show(news) {
    batch = news;
    showOrders();
    const now = JSON.stringify(batch.outcomes);
    if (now === shown) return;
    shown = now;
    if (failedOf(batch) > 0 || list.childElementCount === 0 || note.textContent === "Reading…") refresh();
  }
  return { show };
}

function makeCause(id, base, cause, retry) {
  const heading = cause.message || cause.error_type || spaced(cause.outcome);
  const exit = cause.exit_code === null ? "" : `, exit code ${cause.exit_code}`;
  const type = cause.error_type && cause.error_type !== heading ? ` · ${cause.error_type}` : "";
  const number = el("span", { class: "count" });
  const again = button("", () => retry(cause), { class: "main", "data-order": "retry" });
  const node = el(
    "article",
    { class: "cause" },
    el("header", {}, number, el("h3", {}, heading)),
    el(
      "div",
      { class: "body" },
      el("p", { class: "soft" }, swatch(cause.outcome), `${spaced(cause.outcome)}${exit}${type}`),
      el("p", {}, "Such as ", el("bdi", {}, cause.key), el("span", { class: "soft" }, `, line ${count(cause.line)}`)),
      cause.log_tail === null ? null : folded("End of its log", cause.log_tail.slice(-LOG_CHARS)),
      cause.override === null ? null : folded("What it was sent", cause.override),
      el(
        "p",
        { class: "links" },
        again,
        cause.run_id === null
          ? null
          : button("Log", () => showLog(id, cause.run_id, `Log of ${cause.key}`), {
              "aria-label": `Log of the sample ${cause.key}`,
            }),
        !isReachable(cause.run_url) ? null : outerLink(cause.run_url, "Open its Run"),
        link(`${base}/records?${query({ outcome: cause.outcome })}`, `Records that ${spaced(cause.outcome)}`),
      ),
    ),
  );

  function show(now) {
    cause = now;
    setText(number, count(now.count));
    setText(again, `Retry ${count(now.count)}…`);
    again.setAttribute("aria-label", `Retry ${counted(now.count, "job")} with: ${heading}`);
  }
  return { node, show };
}

function folded(title, text) {
  return el(
    "details",
    {},
    el("summary", {}, title),
    el("pre", { tabindex: "0", role: "group", "aria-label": title }, text),
  );
}
