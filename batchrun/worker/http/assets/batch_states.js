// States of a batch: their tones, and what each order to a batch will do.

import { ask, onceKey, pathOf } from "./api.js";
import { isSure } from "./dialogs.js";
import { say } from "./elements.js";
import { failedOf, wholeOf } from "./outcome_bar.js";
import { counted, duration, money, secondsSince } from "./words.js";

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

const QUESTIONS = {
  cancel: (batch) => ({
    title: `Cancel “${batch.name}”?`,
    effects: [
      batch.live_runs
        ? `Aborts ${counted(batch.live_runs, "live Run")}; their jobs end as aborted, with the output so far.`
        : "No Run is live.",
      left(batch) > batch.live_runs ? `${counted(left(batch) - batch.live_runs, "job")} will not start.` : "",
      `${counted(batch.jobs.settled, "record")} and ${counted(batch.items, "item")} stay. Resume carries out what is left.`,
    ],
    doIt: "Cancel the batch",
  }),
  delete: (batch) => ({
    title: `Delete “${batch.name}”?`,
    effects: batch.keeps_results
      ? [
          `Removes it from the worker. Its ${counted(batch.jobs.settled, "record")} and ${counted(batch.items, "item")} stay in ${batch.out_dir}.`,
          "Its costs no longer count in the worker's budget.",
        ]
      : [
          `Deletes ${counted(batch.jobs.settled, "record")}, ${counted(batch.items, "item")}, the ledger and the logs from this machine. This cannot be undone.`,
          "Runs and datasets stay on the platform. The batch's costs no longer count in the worker's budget.",
        ],
    doIt: batch.keeps_results ? "Remove the batch" : "Delete the batch",
  }),
};
const DONE = {
  pause: "is pausing: live Runs go on to their end",
  resume: "is resumed",
  cancel: "is being cancelled",
  delete: "is deleted",
};

// Carry out an order, after a question if it destroys something. Return whether it was carried out.
export async function obey(order, batch) {
  const question = QUESTIONS[order]?.(batch);
  if (
    question &&
    !(await isSure(
      question.title,
      question.effects.filter((each) => each),
      question.doIt,
    ))
  )
    return false;
  try {
    await send(order, batch.id);
    say(`“${batch.name}” ${DONE[order]}.`);
    return true;
  } catch (error) {
    say(error.message);
    return false;
  }
}

// Send an order to a batch; "retry" is for all jobs that did not succeed.
export async function send(order, id) {
  if (order === "delete") return ask("DELETE", pathOf(id));
  if (order !== "retry") return ask("POST", `${pathOf(id)}/${order}`);
  return ask("POST", `${pathOf(id)}/retry`, { body: {}, headers: onceKey() });
}

// The jobs of a batch that another round can carry out: bad lines are none.
export const retriable = (batch) => failedOf(batch) - (batch.outcomes.invalid ?? 0);

// What a retry will do, in sentences; of all jobs of some batches that did not succeed, or of `jobs` of one batch.
export function retryEffects(batches, jobs = batches.reduce((sum, batch) => sum + retriable(batch), 0)) {
  const share = batches.length === 1 ? jobs / (retriable(batches[0]) || 1) : 1;
  const usd = batches.reduce(
    (sum, batch) => sum + (batch.cost_usd / (batch.jobs.settled || 1)) * retriable(batch) * share,
    0,
  );
  const resting = batches.filter((batch) => !UNDER_WAY.includes(batch.state)).length;
  const one = batches.length === 1;
  const resumed = resting === 0 ? "" : one ? ", which is resumed" : `; ${counted(resting, "batch")} will be resumed`;
  const whose = one ? "this batch" : counted(batches.length, "batch");
  return [
    `Starts ${counted(jobs, "Run")} in another round of ${whose}${resumed}.`,
    usd > 0
      ? `That costs about ${money(usd)}, if they cost what ${one ? "this batch's" : "their batches'"} jobs did on average.`
      : "",
    `The records of ${one ? "this round" : "earlier rounds"} stay; each job gets one more when it ends.`,
  ].filter((each) => each);
}

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
