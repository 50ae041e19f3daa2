// Who is notified of what happens to batches and worker, and a test of it.

import { ask, read } from "./api.js";
import { button, card, el, fillFacts, setText, statusLine } from "./elements.js";
import { count, spaced } from "./words.js";

export function notifyCard(signal) {
  const facts = el("dl", { class: "facts" });
  const nobody = el("p", { hidden: true }, "Nobody is notified: [notify] of worker.toml names a webhook or a command.");
  const said = statusLine();
  const test = button("Send a test", sendTest, { hidden: true });
  const node = card("Notifications", facts, nobody, said, el("div", { class: "buttons" }, test));

  async function refresh() {
    const found = await read("/v1/notify", signal);
    const targets = Object.entries(found.targets);
    test.hidden = facts.hidden = targets.length === 0;
    nobody.hidden = !facts.hidden;
    if (facts.hidden) return;
    fillFacts(facts, [
      ...targets,
      ["Events", found.events.map(spaced).join(", ")],
      ["Not delivered", count(found.waiting)],
      ["Trouble", found.trouble || "none"],
    ]);
  }

  async function sendTest() {
    test.disabled = true;
    setText(said, "Sending…");
    try {
      const { results } = await (await ask("POST", "/v1/notify/test", { signal })).json();
      const words = Object.entries(results).map(([way, why]) => `${way}: ${why || "delivered"}`);
      setText(said, words.join("; "));
    } catch (error) {
      if (!signal.aborted) setText(said, error.message);
    }
    test.disabled = false;
  }

  return { node, refresh };
}
