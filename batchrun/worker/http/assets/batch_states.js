// States of a batch: their tones, and what a batch in one is doing.

import { failedOf, wholeOf } from "./outcome_bar.js";
import { counted, duration, secondsSince } from "./words.js";

export const TONES = {
  queued: "open",
  active: "live",
  pausing: "timed_out",
  paused: "timed_out",
  cancelling: "aborted",
  cancelled: "aborted",
  finished: "succeeded",
  failed: "failed",
  tripped: "failed",
  out_of_budget: "failed",
  stopped: "failed",
};
export const UNDER_WAY = ["queued", "active", "pausing", "cancelling"];

// How long it has run; nobody notes when a batch that rests, but may go on, came to rest.
export function tookWords(batch) {
  const isKnown = batch.begun_at && (batch.ended_at || UNDER_WAY.includes(batch.state));
  return isKnown ? duration(secondsSince(batch.begun_at, batch.ended_at)) : "–";
}

export const left = (batch) => Math.max(0, wholeOf(batch) - batch.jobs.settled);

// What to do on this page about a batch that rests; its reason names the commands for a terminal.
export function advice(batch) {
  if (UNDER_WAY.includes(batch.state)) return "";
  if (batch.jobs.in_doubt) return "Here: say which Run each start has made, at the top of the overview; then Resume.";
  if (batch.state === "out_of_budget")
    return "Here: raise its budget under Settings, “Change limits…”, or that of all batches under Worker; it goes on by itself.";
  if (batch.state === "tripped")
    return "Here: look at Failures. Resume goes on with the other jobs, Retry carries the failed ones out again.";
  if (batch.can.includes("resume") && batch.reason) return "Here: Resume, once the cause is gone.";
  return "";
}

// What a batch is doing, in one line.
export function doing(batch) {
  const { jobs } = batch;
  const whole =
    jobs.total === null
      ? counted(jobs.settled, "job")
      : `${jobs.settled.toLocaleString("en")} of ${counted(wholeOf(batch), "job")}`;
  const parts = [`${whole} done`];
  if (failedOf(batch)) parts.push(`${failedOf(batch).toLocaleString("en")} did not succeed`);
  if (batch.live_runs) parts.push(counted(batch.live_runs, "live Run"));
  if (jobs.postponed) parts.push(`${counted(jobs.postponed, "job")} waiting to retry`);
  if (jobs.in_doubt) parts.push(`${counted(jobs.in_doubt, "start")} in doubt`);
  return parts.join(" · ");
}
