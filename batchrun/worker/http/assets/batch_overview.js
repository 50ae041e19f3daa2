// The overview of a batch: key figures, jobs by outcome, and what was over time.

import { LINKS_FOR_MS, linkTo, pathOf, read } from "./api.js";
import { tookWords, UNDER_WAY } from "./batch_states.js";
import { makeChart } from "./charts.js";
import { costsCard } from "./costs.js";
import { card, el, every, fillTiles, link, outerLink, setText } from "./elements.js";
import { doubtsCard } from "./doubts.js";
import { noticesCard } from "./notices_card.js";
import { failedOf, legendOf, makeBar, wholeOf } from "./outcome_bar.js";
import { runTimesCard } from "./run_times.js";
import { count, duration, moment, money, percent, rate, secondsSince } from "./words.js";

const EVERY_MS = 2000;
const RANGES = [
  ["", "All"],
  ["3600", "Last hour"],
  ["600", "Last 10 min"],
];

export function showOverview({ place, id, base, params, signal }) {
  const [tiles, bar, legend] = [el("dl", { class: "tiles" }), makeBar("tall"), el("ul", { class: "legend" })];
  const ranges = el("ul", { class: "choices" });
  const charts = {
    done: makeChart("Jobs done"),
    speed: makeChart("Throughput", { words: rateWords, isStacked: true }),
    live: makeChart("Live Runs"),
    cost: makeChart("Cost", { words: money }),
  };
  const none = el("p", { class: "soft" });
  const grid = el("div", { class: "charts", hidden: true }, ...Object.values(charts).map(({ node }) => node));
  const overTime = card("Over time", none, grid);
  overTime.head.append(ranges);
  const notices = noticesCard();
  const present = card("Now", tiles, bar.node, legend);
  present.head.append(outputLinks(id, signal));
  const doubts = doubtsCard(id, signal);
  const runTimes = runTimesCard();
  const costs = costsCard(id, signal);
  place.append(el("div", { class: "cards" }, doubts.node, present, overTime, runTimes.node, costs.node, notices.node));
  let [batch, lastS, drawn] = [null, "", null];

  function rateWords(perInterval) {
    return rate(perInterval / (drawn?.interval_s ?? 1)) || "0/s";
  }

  function move(now) {
    lastS = RANGES.some(([last]) => last === now.last) ? now.last : "";
    ranges.replaceChildren(
      ...RANGES.map(([last, text]) =>
        el(
          "li",
          {},
          link(last ? `${base}?last=${last}` : base, text, { "aria-current": last === lastS ? "true" : null }),
        ),
      ),
    );
    refresh();
  }

  async function refresh() {
    const asked = lastS;
    const found = await read(`${pathOf(id)}/history?last_s=${asked || 0}`, signal).catch(() => undefined);
    // It may be answered late, or not at all, which the line at the top of the page says.
    if (found === undefined || asked !== lastS || signal.aborted) return;
    none.hidden = found !== null;
    grid.hidden = found === null;
    runTimes.show(found?.run_times ?? null);
    if (found !== null) draw(found);
  }

  function draw(found) {
    drawn = found;
    const began = Date.parse(found.began_at);
    const at = found.succeeded.map((_, number) => began + 1000 * found.interval_s * number);
    charts.done.show({
      at,
      series: [
        { name: "done", tone: "succeeded", values: found.done },
        { name: "not succeeded", tone: "failed", values: found.not_succeeded },
      ],
    });
    charts.speed.show({
      at,
      series: [
        { name: "succeeded", tone: "succeeded", values: found.succeeded },
        { name: "not", tone: "failed", values: found.failed },
      ],
    });
    charts.live.show({
      at,
      series: [{ name: "", tone: "live", values: found.live_runs }],
      limit: batch?.max_concurrent_runs,
    });
    charts.cost.show({ at, series: [{ name: "", tone: "live", values: found.cost_usd }], limit: batch?.budget_usd });
  }

  function show(now) {
    const hasMoved = batch?.state !== now.state || JSON.stringify(batch.jobs) !== JSON.stringify(now.jobs);
    batch = now;
    setText(
      none,
      now.worker ? "Another worker has what was over time." : "Nothing to show yet: the first job is not admitted.",
    );
    const { jobs } = now;
    const failed = failedOf(now);
    const whole = jobs.total === null ? "of an unknown number" : `of ${count(wholeOf(now))}`;
    const limit = now.max_concurrent_runs === null ? "" : `of at most ${count(now.max_concurrent_runs)}`;
    const times =
      now.ended_at || !UNDER_WAY.includes(now.state)
        ? ["took", tookWords(now), now.begun_at ? `from ${moment(now.begun_at)}` : ""]
        : [
            "to go",
            now.eta_s === null ? "–" : duration(now.eta_s),
            now.begun_at ? `${duration(secondsSince(now.begun_at))} so far` : "",
          ];
    fillTiles(tiles, [
      [
        "jobs done",
        count(jobs.settled),
        jobs.total === null ? whole : `${whole}, ${percent(jobs.settled, wholeOf(now)) || "0 %"}`,
      ],
      ["did not succeed", count(failed), failed ? percent(failed, jobs.settled) : ""],
      ["live Runs", count(now.live_runs), limit],
      ["throughput", rate(now.settled_per_s) || "–", "last 30 s"],
      times,
      ["cost", money(now.cost_usd), now.budget_usd === null ? "no budget" : `of ${money(now.budget_usd)}`],
      ["items", count(now.items), ""],
    ]);
    bar.show(now);
    legend.replaceChildren(...legendOf(now));
    if (failed) legend.append(el("li", {}, link(`${base}/failures`, "Why jobs did not succeed")));
    notices.show(now);
    doubts.show(now);
    costs.show(now);
    if (hasMoved && !UNDER_WAY.includes(now.state)) refresh();
  }

  move(params);
  every(EVERY_MS, signal, async () => {
    const isBehind = batch !== null && drawn === null && batch.jobs.settled > 0;
    if (batch === null || UNDER_WAY.includes(batch.state) || isBehind) await refresh();
  });
  return { show, move };
}

// Links that open in another tab, without the page's key; they are made anew before they expire.
function outputLinks(id, signal) {
  const made = [
    ["report", "Report"],
    ["costs", "Costs"],
  ].map(([what, text]) => [what, outerLink("", text)]);
  const links = el("span", { class: "files" }, ...made.map(([, each]) => each));
  links.hidden = true;
  every(LINKS_FOR_MS, signal, async () => {
    for (const [what, each] of made) each.href = await linkTo(id, what).catch(() => "");
    links.hidden = false;
  });
  return links;
}
