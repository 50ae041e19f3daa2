// A batch's configuration as far as it differs from the defaults, and the limits that can be changed.

import { ask, pathOf, read } from "./api.js";
import { UNDER_WAY } from "./batch_states.js";
import { changeLimits, isSure } from "./dialogs.js";
import { button, card, cell, el, fillFacts, say, setText, statusLine, table } from "./elements.js";
import { counted, moment } from "./words.js";

const LIMITS = {
  weight: "Weight",
  priority: "Priority",
  max_concurrent_runs: "Max live Runs",
  start_rate: "Max starts per second",
  budget_usd: "Budget, US dollars",
};

export function showSettings({ place, id, signal }) {
  const facts = el("dl", { class: "facts" });
  const body = el("tbody");
  const note = statusLine("Reading…");
  const frame = table(
    "Configuration",
    [
      ["Setting", ""],
      ["Value", ""],
    ],
    body,
  );
  const change = button("Change limits…", () => batch && changeOurs());
  const mend = button("Repair…", repair, { hidden: true });
  const held = card("Batch", facts, el("div", { class: "buttons" }, change, mend));
  const config = card("Configuration", frame, note);
  setText(config.note, "what differs from the defaults");
  place.append(el("div", { class: "cards" }, held, config));
  let [batch, readFor] = [null, null];

  const changeOurs = () =>
    changeLimits(
      `Limits of ${batch.name}`,
      "An emptied field, or none, restores the batch file's limit. Live Runs above a smaller limit go on to their end.",
      pathOf(id),
      Object.entries(LIMITS).map(([name, label]) => [name, label, batch[name]]),
    );

  async function repair() {
    const effects = [
      "Reads every line of records and items, and writes missing or damaged ones again, from the platform's Runs.",
      "Nothing is started. It can take minutes for a large batch.",
    ];
    if (!(await isSure(`Repair the files of “${batch.name}”?`, effects, "Repair", false))) return;
    say("Repairing…");
    try {
      const done = await (await ask("POST", `${pathOf(id)}/repair`)).json();
      say(
        `Repaired: ${counted(done.kept, "record")} intact, ${done.rebuilt} written again; items of ${counted(done.item_runs, "Run")} written again.`,
      );
    } catch (error) {
      say(error.message);
    }
  }

  async function refresh() {
    const found = await read(`${pathOf(id)}/config`, signal).catch((error) => error);
    if (signal.aborted) return;
    setText(note, found instanceof Error ? found.message : "");
    if (found instanceof Error) return;
    const rows = Object.entries(found).flatMap(([section, values]) =>
      Object.entries(values).map(([key, value]) => [`${section}.${key}`, value]),
    );
    body.replaceChildren(
      ...rows.map(([key, value]) =>
        el(
          "tr",
          {},
          cell("", el("code", {}, key)),
          cell("text", el("code", {}, typeof value === "string" ? value : JSON.stringify(value))),
        ),
      ),
    );
  }

  function show(now) {
    batch = now;
    mend.hidden = UNDER_WAY.includes(batch.state) || !batch.begun_at;
    fillFacts(facts, [
      ["Id", batch.id],
      ["Task", batch.task],
      ["Profile", batch.profile],
      ["Weight", `${batch.weight}, priority ${batch.priority}`],
      ["Max live Runs", batch.max_concurrent_runs],
      ["Starts", batch.start_rate === null ? null : `at most ${batch.start_rate} per second`],
      ["Submitted", moment(batch.created_at)],
      ["Started", moment(batch.begun_at)],
      ["Ended", moment(batch.ended_at)],
      ["Results", batch.out_dir],
    ]);
    const limits = JSON.stringify([batch.max_concurrent_runs, batch.start_rate, batch.budget_usd]);
    if (limits !== readFor) {
      readFor = limits;
      refresh();
    }
  }
  return { show };
}
