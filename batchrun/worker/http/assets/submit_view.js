// The form to submit a batch: a profile or a batch file, and a job file; first its plan, then the start.

import { ask, onceKey, read } from "./api.js";
import { button, card, el, fillFacts, say, setText } from "./elements.js";
import { count, counted, duration, money, size } from "./words.js";

const OWN = "a batch file of mine";
const MAX_PROBLEMS = 10;

export function openSubmit({ place, signal }) {
  const profile = el("select", { id: "profile" }, el("option", { value: "" }, OWN));
  const file = (id, accept) => el("input", { type: "file", id, accept });
  const [config, jobs, schema] = [
    file("config", ".toml"),
    file("jobs", ".jsonl,.ndjson,.json,.csv,.tsv,.gz,.zst"),
    file("schema", ".json"),
  ];
  const name = el("input", { id: "name", autocomplete: "off", maxlength: "200", placeholder: "from the job file" });
  const trouble = el("p", { class: "trouble", role: "alert" });
  const plan = el("button", { type: "submit", class: "main" }, "Show the plan");
  const configRow = field(
    "Batch file",
    config,
    "A TOML file, as batchrun run takes it. It may name only files that you submit here.",
  );
  const form = el(
    "form",
    { class: "card submit" },
    field(
      "Configured by",
      profile,
      "A profile is a batch file in the worker's directory profiles/; with one, only a job file is needed.",
    ),
    configRow,
    field("Job file", jobs, "One line, one job: JSONL, JSON, CSV or TSV, also as .gz or .zst."),
    field("Name", name, null),
    el(
      "details",
      {},
      el("summary", {}, "More"),
      field("Item schema", schema, "The JSON Schema that every item must match, if the batch file expects one."),
    ),
    trouble,
    el("div", { class: "buttons" }, plan),
  );
  const shown = el("div", { role: "status" });
  place.append(
    el(
      "div",
      { class: "head" },
      el(
        "div",
        {},
        el("h1", { tabindex: "-1" }, "Submit a batch"),
        el("p", {}, "Its plan is shown first: every line is checked, time and cost are forecast, and nothing starts."),
      ),
    ),
    form,
    shown,
  );

  profile.addEventListener("change", () => (configRow.hidden = profile.value !== ""));
  form.addEventListener("input", () => shown.replaceChildren());
  read("/v1/profiles", signal)
    .then(({ names }) => {
      profile.append(...names.map((each) => el("option", { value: each }, each)));
      if (names.length) profile.value = names[0];
      configRow.hidden = profile.value !== "";
    })
    .catch((error) => setText(trouble, error.message));

  function content() {
    const sent = new FormData();
    if (profile.value) sent.append("profile", profile.value);
    else if (config.files.length) sent.append("config", config.files[0]);
    else throw new Error("Choose a batch file, or a profile.");
    if (jobs.files.length) sent.append("jobs", jobs.files[0]);
    else throw new Error("Choose a job file.");
    if (schema.files.length) sent.append("schema", schema.files[0]);
    if (name.value.trim()) sent.append("name", name.value.trim());
    return sent;
  }

  // Send the form; `what` names the step on its button meanwhile.
  async function send(pressed, what, path, headers = {}) {
    const text = pressed.textContent;
    setText(trouble, "");
    pressed.disabled = true;
    try {
      const body = content();
      setText(pressed, `${what} ${size(jobs.files[0].size)}…`);
      return await (await ask("POST", path, { body, headers, signal })).json();
    } catch (error) {
      if (!signal.aborted) setText(trouble, error.message);
      return null;
    } finally {
      pressed.disabled = false;
      setText(pressed, text);
    }
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    shown.replaceChildren();
    const found = await send(plan, "Checking", "/v1/plans?inputs=1");
    if (found === null) return;
    // A second press of the button, or one whose answer was lost, submits the same batch once.
    const once = onceKey();
    const start = button(startWords(found), submit, { class: found.would_fail ? "danger" : "main" });
    async function submit() {
      const batch = await send(start, "Sending", "/v1/batches", once);
      if (batch === null) return;
      say(`“${batch.name}” is submitted.`);
      location.hash = `#/batches/${encodeURIComponent(batch.id)}`;
    }
    shown.replaceChildren(planCard(found, start));
    start.focus();
    shown.scrollIntoView({ block: "nearest" });
  });
  return { title: "Submit a batch", words: "limit=0" };
}

function field(label, input, note) {
  return el(
    "div",
    { class: "row" },
    el("label", { for: input.id }, label),
    input,
    note ? el("p", { class: "soft small" }, note) : null,
  );
}

function startWords({ would_fail: wouldFail, forecast }) {
  return `Start ${counted(forecast.runs, "Run")}${wouldFail ? " anyway" : ""}`;
}

const spread = (estimate, words) => `${words(estimate.p50)} (9 of 10 times below ${words(estimate.p90)})`;

function planCard(plan, start) {
  const { forecast } = plan;
  const facts = el("dl", { class: "facts" });
  const skipped = plan.duplicates ? `; ${counted(plan.duplicates, "line")} skipped, which repeat others` : "";
  const groups = Object.entries(plan.groups)
    .filter(([group]) => group)
    .map(([group, number]) => `${count(number)} ${group}`);
  fillFacts(facts, [
    ["Jobs", `${count(plan.jobs)}${skipped}`],
    ["Groups", groups.slice(0, 12).join(", ") + (groups.length > 12 ? ` and ${count(groups.length - 12)} more` : "")],
    ["Task", plan.build ? `${plan.task}, build ${plan.build}` : plan.task],
    ["Account", plan.account],
    [
      "Inputs",
      plan.would_fail
        ? `${counted(plan.failing_lines, "line")} would fail`
        : plan.are_inputs_checked
          ? "all are valid"
          : "not checked: the Actor has no input schema",
    ],
    [
      "Time",
      forecast.elapsed_s
        ? `${spread(forecast.elapsed_s, duration)}, with ${counted(forecast.slots, "Run")} at once`
        : "unknown: the task has no recent Runs",
    ],
    ["Cost", forecast.cost_usd ? spread(forecast.cost_usd, money) : "unknown: no recent Run has a known cost"],
    [
      "One Run",
      forecast.run_s
        ? `${spread(forecast.run_s, duration)}${forecast.run_cost_usd ? `, ${spread(forecast.run_cost_usd, money)}` : ""}`
        : "",
    ],
  ]);
  const problems = plan.problems
    .slice(0, MAX_PROBLEMS)
    .map((each) => el("li", { class: "trouble" }, problemWords(each)));
  if (plan.problems.length > MAX_PROBLEMS)
    problems.push(el("li", {}, `and ${counted(plan.problems.length - MAX_PROBLEMS, "more problem")}`));
  const warnings = [...problems, ...plan.warnings.map((each) => el("li", {}, each))];
  const unknown = [...new Set([...plan.unknown, ...forecast.unknown])].map((each) => el("li", { class: "soft" }, each));
  const inputs = plan.inputs.map(([line, input]) =>
    el(
      "details",
      {},
      el("summary", {}, `Input of line ${count(line)}`),
      el("pre", { tabindex: "0", role: "group", "aria-label": "Input" }, input),
    ),
  );
  const listOf = (title, entries) =>
    entries.length ? [el("h3", {}, title), el("ul", { class: "notices" }, ...entries)] : [];
  const shown = card(
    "The plan",
    facts,
    ...listOf("To look at first", warnings),
    ...listOf("What it does not know", unknown),
    ...inputs,
    el("div", { class: "buttons" }, start),
  );
  shown.classList.add("plan");
  return shown;
}

function problemWords({ message, count: number, lines }) {
  const more = number > lines.length ? ` and ${count(number - lines.length)} more` : "";
  return `${number === 1 ? "line" : "lines"} ${lines.join(", ")}${more}: ${message}`;
}
