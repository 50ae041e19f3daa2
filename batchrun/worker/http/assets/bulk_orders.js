// Orders to several batches at once: what they will do in sum, and carrying them out.

import { query, read } from "./api.js";
import { retryEffects, send } from "./batch_orders.js";
import { left } from "./batch_states.js";
import { isSure } from "./dialogs.js";
import { say } from "./elements.js";
import { count, counted } from "./words.js";

// As many as the worker lists in one answer.
const LISTED = 1000;
const AT_ONCE = 4;

export const BULK_ORDERS = {
  pause: ["Pause", "paused"],
  resume: ["Resume", "resumed"],
  retry: ["Retry failed", "retried"],
  cancel: ["Cancel", "cancelled"],
  delete: ["Delete", "deleted"],
};

// Return the batches of a list that still exist, as they are now: those that `keeps` accepts.
export async function listed(asked, keeps) {
  const found = [];
  for (let offset = 0, total = 1; offset < total; offset += LISTED) {
    const page = await read(`/v1/batches?${query({ ...asked, offset, limit: LISTED })}`);
    found.push(...page.items.filter(keeps));
    total = page.total;
  }
  return found;
}

const sum = (batches, number) => batches.reduce((total, batch) => total + number(batch), 0);
// A job that was retried has a record of each round.
const kept = (batches) => {
  const [jobs, items] = [sum(batches, (batch) => batch.jobs.settled), sum(batches, (batch) => batch.items)];
  return `the records of ${counted(jobs, "job")} and ${counted(items, "item")}`;
};

const EFFECTS = {
  pause: (batches) => [
    `Stops new starts; ${counted(sum(batches, left), "job")} wait until they are resumed.`,
    liveWords(batches, "goes on to its end", "go on to their end"),
  ],
  resume: (batches) => [`Carries out what is left: ${counted(sum(batches, left), "job")}.`],
  retry: (batches) => retryEffects(batches),
  cancel: (batches) => [
    liveWords(batches, "is aborted; its job ends as aborted", "are aborted; their jobs end as aborted"),
    `${counted(
      sum(batches, (batch) => Math.max(0, left(batch) - batch.live_runs)),
      "job",
    )} will not start.`,
    `It keeps ${kept(batches)}. Resume carries out what is left.`,
  ],
  delete: (batches) => {
    const own = batches.filter((batch) => !batch.keeps_results);
    const spooled = batches.filter((batch) => batch.keeps_results);
    return [
      own.length
        ? `Deletes ${kept(own)}, the ledgers and the logs of ${counted(own.length, "batch")} from this machine. This cannot be undone.`
        : "",
      spooled.length
        ? `Removes ${counted(spooled.length, "batch")} of the spool from the worker; ${kept(spooled)} stay in the spool.`
        : "",
      "Runs and datasets stay on the platform. The costs no longer count in the worker's budget.",
    ];
  },
};

function liveWords(batches, one, many) {
  const live = sum(batches, (batch) => batch.live_runs);
  return live === 0 ? "No Run is live." : `${counted(live, "live Run")} ${live === 1 ? one : many}.`;
}

// Carry out an order for those of some batches that can take it, after a question. Return whether it was answered yes.
export async function obeyAll(order, chosen) {
  const [text, done] = BULK_ORDERS[order];
  const able = chosen.filter((batch) => batch.can.includes(order));
  const others = chosen.length - able.length;
  const title = `${text}${order === "retry" ? " jobs of" : ""} ${counted(able.length, "batch")}?`;
  const skipped = others ? `Leaves ${counted(others, "batch")} as ${others === 1 ? "it is" : "they are"}: not possible.` : "";
  const effects = [...EFFECTS[order](able), skipped].filter((each) => each);
  const isDanger = order === "cancel" || order === "delete";
  if (!(await isSure(title, effects, `${text} ${counted(able.length, "batch")}`, isDanger))) return false;
  const refusals = await carryOut(order, able);
  const well = able.length - refusals.length;
  const parts = well || refusals.length === 0 ? [`${counted(well, "batch")} ${well === 1 ? "is" : "are"} ${done}.`] : [];
  if (refusals.length) parts.push(`${count(refusals.length)} refused; ${refusals[0]}`);
  say(parts.join(" "));
  return true;
}

// A few at once: each order to a batch is a write to the worker's disk.
async function carryOut(order, batches) {
  const waiting = [...batches];
  const refusals = [];
  async function work() {
    for (let batch = waiting.shift(); batch !== undefined; batch = waiting.shift()) {
      try {
        await send(order, batch.id);
      } catch (error) {
        refusals.push(`“${batch.name}”: ${error.message}`);
      }
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return refusals;
}
