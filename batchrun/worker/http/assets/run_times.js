// How long the Runs of a batch took: percentiles, and a histogram on a logarithmic scale.

import { card, el, fillTiles, svg } from "./elements.js";
import { count, counted, duration } from "./words.js";

const [HEIGHT, TOP, GROUND] = [104, 18, 20];
const TICKS_S = [
  0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600,
  86_400, 604_800,
];
const TICK_WIDTH = 64;
const MARKS = [50, 90, 99];

const words = (seconds) => (seconds < 0.9995 ? `${Math.round(1000 * seconds)} ms` : duration(seconds));

export function runTimesCard() {
  const tiles = el("dl", { class: "tiles" });
  const place = el("div", { class: "run-times" });
  const whole = card("How long Runs took", tiles, place);
  let found = null;

  function show(now) {
    if (JSON.stringify(found) === JSON.stringify(now)) return;
    found = now;
    whole.hidden = found === null;
    if (found === null) return;
    const { count: runs, percentiles, mean_s: mean, longest_s: longest } = found.spread;
    whole.note.textContent = `${counted(runs, "Run")} that ended`;
    fillTiles(tiles, [
      ["p50, median", words(percentiles[50]), ""],
      ["p90", words(percentiles[90]), ""],
      ["p99", words(percentiles[99]), ""],
      ["longest", words(longest), ""],
      ["mean", words(mean), ""],
    ]);
    draw();
  }

  function draw() {
    if (found !== null && place.clientWidth > 0) place.replaceChildren(histogram(found, place.clientWidth));
  }

  whole.classList.add("half");
  whole.hidden = true;
  new ResizeObserver(draw).observe(place);
  return { node: whole, show };
}

function histogram({ spread, edges, counts }, width) {
  const [low, high] = [edges[0], edges.at(-1)];
  const x = (seconds) => (width * Math.log(Math.min(high, Math.max(low, seconds)) / low)) / Math.log(high / low);
  const ground = HEIGHT - GROUND;
  const most = Math.max(...counts);
  const bars = counts.map((number, at) => {
    if (number === 0) return "";
    const height = Math.max(1.5, ((ground - TOP) * number) / most);
    const [from, to] = [x(edges[at]), x(edges[at + 1])];
    const title = `${counted(number, "Run")} of ${words(edges[at])} to ${words(edges[at + 1])}`;
    const bar = { class: "tone-live", x: from, y: ground - height, width: Math.max(0.5, to - from - 1), height };
    return svg("rect", bar, svg("title", {}, title));
  });
  const said = MARKS.map((each) => `p${each} ${words(spread.percentiles[each])}`).join(", ");
  const line = svg("line", { class: "grid", x1: 0, x2: width, y1: ground, y2: ground });
  const drawing = { role: "img", "aria-label": `How long ${count(spread.count)} Runs took: ${said}`, width, height: HEIGHT };
  return svg("svg", drawing, line, ...bars, ...marks(spread.percentiles, x, ground), ...ticks(low, high, x, width));
}

// Percentiles that are close together share a line and a label.
function marks(percentiles, x, ground) {
  const groups = [];
  for (const each of MARKS) {
    const at = x(percentiles[each]);
    if (groups.length > 0 && at - groups.at(-1).at < 30 * groups.at(-1).names.length) groups.at(-1).names.push(`p${each}`);
    else groups.push({ at, names: [`p${each}`] });
  }
  return groups.flatMap(({ at, names }) => [
    svg("line", { class: "mark", x1: at, x2: at, y1: TOP - 4, y2: ground }),
    svg("text", { x: at, y: TOP - 7, "text-anchor": "middle" }, names.join(", ")),
  ]);
}

function ticks(low, high, x, width) {
  let last = -TICK_WIDTH;
  return TICKS_S.filter((each) => each >= low && each <= high).flatMap((each) => {
    const at = x(each);
    if (at - last < TICK_WIDTH || at < 16 || at > width - 24) return [];
    last = at;
    return [svg("text", { x: at, y: HEIGHT - 4, "text-anchor": "middle" }, words(each))];
  });
}
