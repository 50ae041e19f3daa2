// The jobs of a batch as one bar, by outcome; the rest of the bar is what is still open.

import { el, swatch } from "./elements.js";
import { count, percent, spaced } from "./words.js";

export const OUTCOMES = [
  "succeeded",
  "failed",
  "timed_out",
  "aborted",
  "empty",
  "malformed",
  "invalid",
  "rejected",
  "lost",
];

export const failedOf = ({ jobs }) => jobs.settled - jobs.succeeded;
export const wholeOf = ({ jobs }) => Math.max(jobs.total ?? 0, jobs.settled);

// Jobs with a live Run; of a batch that is under way it may be noted a moment later that one has ended.
const liveOf = (batch) => Math.min(batch.live_runs, wholeOf(batch) - batch.jobs.settled);

export function makeBar(kind = "") {
  const node = el("div", { class: `outcomes ${kind}`, role: "img", "aria-label": "Jobs by outcome" });
  function show(batch) {
    const whole = Math.max(wholeOf(batch), 1);
    const parts = OUTCOMES.filter((outcome) => batch.outcomes[outcome] > 0);
    const live = liveOf(batch);
    const now = JSON.stringify([batch.outcomes, whole, live]);
    if (node.shown === now) return;
    node.shown = now;
    const said = parts.map((outcome) => `${count(batch.outcomes[outcome])} ${spaced(outcome)}`);
    if (live) said.push(`${count(live)} live`);
    node.setAttribute(
      "aria-label",
      `${percent(batch.jobs.settled, whole) || "0 %"} done: ${said.join(", ") || "no job yet"}`,
    );
    node.replaceChildren(
      ...parts.map((outcome) => {
        const part = el("span", {
          class: `tone-${outcome}`,
          title: `${count(batch.outcomes[outcome])} ${spaced(outcome)}`,
        });
        part.style.flexGrow = batch.outcomes[outcome] / whole;
        return part;
      }),
    );
    const running = el("span", { class: "tone-live", title: `${count(live)} live` });
    running.style.flexGrow = live / whole;
    const rest = el("span", { class: "rest" });
    rest.style.flexGrow = (whole - batch.jobs.settled - live) / whole;
    if (live) node.append(running);
    node.append(rest);
  }
  return { node, show };
}

export function legendOf(batch) {
  const live = liveOf(batch);
  const open = wholeOf(batch) - batch.jobs.settled - live;
  const parts = OUTCOMES.filter((outcome) => batch.outcomes[outcome] > 0).map((each) => [
    each,
    batch.outcomes[each],
    each,
  ]);
  if (live > 0) parts.push(["live", live, "live"]);
  if (open > 0) parts.push(["open", open, "open"]);
  return parts.map(([tone, number, word]) => el("li", {}, swatch(tone), `${count(number)} ${spaced(word)}`));
}
