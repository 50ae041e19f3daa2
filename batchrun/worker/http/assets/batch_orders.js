// Orders to a batch: what each will do, as a question before it, and carrying it out.

import { ask, onceKey, pathOf } from "./api.js";
import { left, UNDER_WAY } from "./batch_states.js";
import { isSure } from "./dialogs.js";
import { say } from "./elements.js";
import { failedOf } from "./outcome_bar.js";
import { counted, money } from "./words.js";

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
