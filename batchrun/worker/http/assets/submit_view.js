// The form to submit a batch: a profile or a batch file, and a job file.

import { ask, read } from "./api.js";
import { el, say, setText } from "./elements.js";
import { size } from "./words.js";

const OWN = "a batch file of mine";

export function openSubmit({ place, signal }) {
  const profile = el("select", { id: "profile" }, el("option", { value: "" }, OWN));
  const file = (id, accept) => el("input", { type: "file", id, accept });
  const [config, jobs, schema] = [file("config", ".toml"), file("jobs", ".jsonl,.ndjson,.json,.csv,.tsv,.gz,.zst"), file("schema", ".json")];
  const name = el("input", { id: "name", autocomplete: "off", maxlength: "200", placeholder: "from the job file" });
  const trouble = el("p", { class: "trouble", role: "alert" });
  const submit = el("button", { type: "submit", class: "main" }, "Submit");
  const field = (label, input, note) => el("div", { class: "row" }, el("label", { for: input.id }, label), input,
    note ? el("p", { class: "soft small", id: `${input.id}-note` }, note) : null);
  const configRow = field("Batch file", config, "A TOML file, as batchrun run takes it. It may name only files that you submit here.");
  const form = el("form", { class: "card submit" },
    field("Configured by", profile, "A profile is a batch file in the worker's directory profiles/; with one, only a job file is needed."),
    configRow,
    field("Job file", jobs, "One line, one job: JSONL, JSON, CSV or TSV, also as .gz or .zst."),
    field("Name", name, null),
    el("details", {}, el("summary", {}, "More"), field("Item schema", schema, "The JSON Schema that every item must match, if the batch file expects one.")),
    trouble, el("div", { class: "buttons" }, submit));
  place.append(el("div", { class: "head" }, el("div", {}, el("h1", { tabindex: "-1" }, "Submit a batch"),
    el("p", {}, "The worker starts it beside the other batches, within its limits."))), form);

  profile.addEventListener("change", () => (configRow.hidden = profile.value !== ""));
  read("/v1/profiles", signal).then(({ names }) => {
    profile.append(...names.map((each) => el("option", { value: each }, each)));
    if (names.length) profile.value = names[0];
    configRow.hidden = profile.value !== "";
  }).catch((error) => setText(trouble, error.message));

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

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    setText(trouble, "");
    submit.disabled = true;
    try {
      setText(submit, jobs.files.length ? `Sending ${size(jobs.files[0].size)}…` : "Sending…");
      const batch = await (await ask("POST", "/v1/batches", { body: content() })).json();
      say(`“${batch.name}” is submitted.`);
      location.hash = `#/batches/${encodeURIComponent(batch.id)}`;
    } catch (error) {
      setText(trouble, error.message);
    } finally {
      submit.disabled = false;
      setText(submit, "Submit");
    }
  });
  return { title: "Submit a batch", words: "limit=0" };
}
