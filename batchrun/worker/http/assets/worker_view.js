// The worker's own page: slots, memory, rates, disk, limits.

import { read } from "./api.js";
import { makeChart } from "./charts.js";
import { changeLimits } from "./dialogs.js";
import { button, card, el, every, fillFacts, fillTiles, outerLink, say } from "./elements.js";
import { notifyCard } from "./notify_card.js";
import { count, duration, moment, money, percent, rate, secondsSince, size, spaced } from "./words.js";

const EVERY_MS = 3000;
const LIMITS = {
  max_concurrent_runs: "Max live Runs",
  max_total_memory_mb: "Max memory, MB",
  request_rate: "Max requests per second",
  budget_usd: "Budget, US dollars",
};

export function openWorker({ place, signal }) {
  const condition = el("p", { class: "state" });
  const [tiles, facts] = [el("dl", { class: "tiles" }), el("dl", { class: "facts" })];
  const chart = makeChart("Live Runs");
  const limits = el("dl", { class: "facts" });
  const states = el("ul", { class: "legend" });
  const change = button("Change limits…", changeOurs);
  const about = card("About", facts);
  const held = card("Limits of all batches together", limits, el("div", { class: "buttons" }, change));
  const notify = notifyCard(signal);
  about.classList.add("half");
  held.classList.add("half");
  place.append(
    el("div", { class: "head" }, el("div", {}, el("h1", { tabindex: "-1" }, "Worker"), condition)),
    el("div", { class: "cards" }, card("Now", tiles, states), card("Over the last hour", chart.node), held, about, notify.node),
  );

  async function showLimits() {
    const values = await read("/v1/limits", signal);
    fillFacts(
      limits,
      Object.entries(values).map(([key, value]) => [key, value === null ? "none" : String(value)]),
    );
  }

  async function changeOurs() {
    try {
      const values = await read("/v1/limits", signal);
      changeLimits(
        "Limits of all batches",
        "Changes hold until the next start or reload; none removes a limit.",
        "/v1/limits",
        Object.entries(LIMITS).map(([name, label]) => [name, label, values[name]]),
      );
    } catch (error) {
      say(error.message);
    }
  }

  every(EVERY_MS, signal, async () => {
    try {
      const points = await read("/v1/worker/history", signal);
      const at = points.at.map((each) => Date.parse(each));
      chart.show({
        at,
        series: [{ name: "live", tone: "live", values: points.live_runs }],
        limit: points.max_live_runs.at(-1),
      });
      await showLimits();
      await notify.refresh();
    } catch {
      // The line at the top of the page says that the worker does not answer.
    }
  });

  function show({ worker }) {
    if (!worker) return;
    const { slots, budget, rates, disk } = worker;
    condition.textContent = worker.why_not_ready || "Ready: batches can be submitted and run.";
    condition.classList.toggle("trouble", !worker.is_ready);
    fillTiles(tiles, [
      ["slots in use", count(slots.used), slots.limit === null ? "" : `of ${count(slots.limit)}`],
      [
        "memory of Runs",
        `${count(slots.memory_mb)} MB`,
        slots.max_memory_mb === null ? "no limit" : `of ${count(slots.max_memory_mb)}`,
      ],
      ...(rates
        ? [
            ["jobs done", rate(rates.settled_per_s) || "0/s", "last 30 s"],
            [
              "requests",
              rate(rates.requests_per_s) || "0/s",
              rates.held_back_s > 0
                ? `held back ${duration(rates.held_back_s)} after a 429`
                : `tokens for ${rate(rates.max_requests_per_s)}`,
            ],
            ["open polls", count(rates.open_polls), `of ${count(rates.max_open_polls)}`],
          ]
        : []),
      ...(budget
        ? [["spent", money(budget.spent_usd), `of ${money(budget.limit_usd)}, ${money(budget.reserved_usd)} reserved`]]
        : []),
      ...(disk ? [["disk free", size(disk.free), `${percent(disk.free, disk.total)} of ${size(disk.total)}`]] : []),
    ]);
    const counts = Object.entries(worker.batches);
    states.replaceChildren(
      ...(counts.length
        ? counts.map(([state, number]) => el("li", {}, `${count(number)} ${spaced(state)}`))
        : [el("li", {}, "no batches yet")]),
    );
    fillFacts(facts, [
      ["Platform", worker.platform],
      ["Outage", worker.outage || "none"],
      ["Version", worker.version],
      ["Started", `${moment(worker.began_at)}, ${duration(secondsSince(worker.began_at))} ago`],
      ["Data", worker.data_dir],
    ]);
  }

  place.querySelector(".head").append(outerLink("/openapi.json", "API as OpenAPI"));
  return { title: "Worker", words: "limit=0", show };
}
