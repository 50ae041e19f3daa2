// Starts whose answer was lost, of a batch that rests: a person says which Run each has started.

import { ask, pathOf, read } from "./api.js";
import { UNDER_WAY } from "./batch_states.js";
import { isSure } from "./dialogs.js";
import { button, card, el, say, setText, statusLine } from "./elements.js";
import { moment } from "./words.js";

export function doubtsCard(id, signal) {
  const list = el("ul", { class: "notices" });
  const note = statusLine();
  const node = card(
    "Starts in doubt",
    el(
      "p",
      {},
      "The answers to these starts were lost, so a Run of each may exist. Say which one it is; then resume the batch. A job that is started again although its Run exists costs twice.",
    ),
    note,
    list,
  );
  node.hidden = true;
  let shown = null;

  async function refresh() {
    setText(note, "Asking the platform for Runs that fit…");
    const found = await read(`${pathOf(id)}/doubts`, signal).catch((error) => error);
    if (signal.aborted) return;
    setText(note, found instanceof Error ? found.message : "");
    if (!(found instanceof Error)) list.replaceChildren(...found.map(doubtOf));
  }

  function doubtOf({ key, intended_at: at, candidates }) {
    const choices = candidates.map((run) =>
      button(`${run.id}, ${run.status.toLowerCase()}, started ${moment(run.started_at)}`, () => decide(key, run.id)),
    );
    const none = button("It has started no Run", () => decide(key, null));
    return el(
      "li",
      {},
      el("b", {}, key),
      el("span", { class: "soft" }, `, asked for ${moment(at)}`),
      el("div", { class: "buttons" }, ...choices, none),
    );
  }

  async function decide(key, runId) {
    const effects =
      runId === null
        ? ["The job is started again when the batch is resumed.", "If a Run of it does exist, its work is paid twice."]
        : [`Run ${runId} is taken for the job's, with its output and its cost.`, "Nothing is started."];
    if (
      !(await isSure(
        `Decide about ${key}?`,
        effects,
        runId === null ? "No Run was started" : "It is this Run",
        runId === null,
      ))
    )
      return;
    try {
      await ask("POST", `${pathOf(id)}/resolve`, { body: { key, run_id: runId } });
      say(`${key} is decided; resume the batch when all are.`);
      await refresh();
    } catch (error) {
      say(error.message);
    }
  }

  function show(batch) {
    const isAsked = batch.jobs.in_doubt > 0 && !UNDER_WAY.includes(batch.state);
    node.hidden = !isAsked;
    const now = `${batch.state} ${batch.jobs.in_doubt}`;
    if (isAsked && shown !== now) refresh();
    shown = now;
  }
  return { node, show };
}
