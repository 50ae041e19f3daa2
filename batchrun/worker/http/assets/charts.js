// Charts over time as SVG, drawn in pixels at the width that they have; the pointer shows the values of one interval.

import { el, svg } from "./elements.js";
import { count } from "./words.js";

const [HEIGHT, TOP, GROUND] = [132, 10, 20];
// Of the numbers at its left.
const [LEAST_LEFT, DIGIT_WIDTH] = [44, 7];
const STEPS_S = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400, 172_800, 604_800];
const TICK_WIDTH = 74;
// Half the width of a time's label.
const EDGE = 26;

// Make a chart. `words` puts a value into words; `isStacked` draws bars on one another, else each series is a line.
export function makeChart(title, { words = count, isStacked = false } = {}) {
  const note = el("span", { class: "note", "aria-hidden": "true" });
  const place = el("div", { class: "plot" });
  const node = el("figure", { class: "chart" }, el("figcaption", {}, el("h3", {}, title), note), place);
  let data = null;

  function show(now) {
    data = now;
    draw();
  }

  function draw() {
    const width = place.clientWidth;
    if (data === null || width === 0) return;
    place.replaceChildren(picture(title, data, width, words, isStacked, words === count));
    setNote(data.at.length - 1, true);
  }

  function setNote(at, isLatest = false) {
    if (at < 0) return;
    const values = data.series.map(({ name, values: all }) => `${words(all[at])} ${name}`.trim());
    note.textContent = `${isLatest ? "last" : clock(data.at[at], data.at)}: ${values.join(", ")}`;
  }

  place.addEventListener("pointermove", (event) => {
    if (data === null || data.at.length === 0) return;
    const left = place.firstElementChild.left;
    const inside = event.clientX - place.getBoundingClientRect().left - left;
    const at = Math.floor((inside / (place.clientWidth - left)) * data.at.length);
    setNote(Math.min(data.at.length - 1, Math.max(0, at)));
  });
  place.addEventListener("pointerleave", () => data !== null && setNote(data.at.length - 1, true));
  new ResizeObserver(draw).observe(place);
  return { node, show };
}

// `data.at`: the beginning of each interval, in ms; `data.series`: [{name, tone, values}]; `data.limit`: a level.
function picture(title, data, width, words, isStacked, isWhole) {
  const points = data.at.length;
  const sums = data.at.map((_, at) => data.series.reduce((sum, { values }) => sum + values[at], 0));
  const peaks = isStacked ? sums : data.series.flatMap(({ values }) => values);
  const peak = Math.max(0, ...peaks);
  const hasLimit = data.limit > 0 && data.limit <= 4 * peak;
  const most = Math.max(peak, hasLimit ? data.limit : 0) * 1.04 || 1;
  const ticks = (peak > 0 ? ticksUpTo(most, isWhole) : [0]).map((value) => [value, words(value)]);
  const left = Math.max(LEAST_LEFT, ...ticks.map(([, text]) => DIGIT_WIDTH * text.length + 12));
  const step = (width - left) / Math.max(1, points);
  const y = (value) => HEIGHT - GROUND - (value / most) * (HEIGHT - GROUND - TOP);
  const levels = ticks.flatMap(([value, text]) => [
    svg("line", { class: "grid", x1: left, x2: width, y1: y(value), y2: y(value) }),
    svg("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, text),
  ]);
  const times = timeTicks(data.at, width - left).map(([at, text]) => {
    const x = left + at * step;
    // A label that would stand out is left out, unless it is one of few.
    if (x > width - EDGE && at < points - 1) return "";
    const anchor = x > width - EDGE ? "end" : "middle";
    return svg("text", { x, y: HEIGHT - 4, "text-anchor": anchor }, text);
  });
  const shapes = isStacked ? bars(data.series, left, step, y) : lines(data.series, left, step, y, points);
  const limit = hasLimit
    ? [
        svg("line", { class: "limit", x1: left, x2: width, y1: y(data.limit), y2: y(data.limit) }),
        svg(
          "text",
          { class: "limit-text", x: width, y: y(data.limit) - 4, "text-anchor": "end" },
          `limit ${words(data.limit)}`,
        ),
      ]
    : [];
  const last = data.series.map(({ name, values }) => `${words(values.at(-1) ?? 0)} ${name}`).join(", ");
  const drawing = svg(
    "svg",
    { role: "img", "aria-label": `${title}: last ${last}; at most ${words(peak)}`, width, height: HEIGHT },
    ...levels,
    ...shapes,
    ...limit,
    ...times,
  );
  return Object.assign(drawing, { left });
}

function bars(series, left, step, y) {
  const ground = series[0].values.map(() => 0);
  const gap = step > 4 ? 1 : 0;
  return series.map(({ tone, values }) => {
    let path = "";
    values.forEach((value, at) => {
      if (value <= 0) return;
      const x = left + at * step;
      path += `M${x.toFixed(1)},${y(ground[at]).toFixed(1)}V${y(ground[at] + value).toFixed(1)}h${Math.max(
        0.6,
        step - gap,
      ).toFixed(2)}V${y(ground[at]).toFixed(1)}Z`;
      ground[at] += value;
    });
    return svg("path", { d: path, class: `tone-${tone}` });
  });
}

function lines(series, left, step, y, points) {
  return series.flatMap(({ tone, values }) => {
    if (points === 0) return [];
    let path = "";
    values.forEach((value, at) => {
      path += `${at ? "V" : `M${left},`}${y(value).toFixed(1)}H${(left + (at + 1) * step).toFixed(1)}`;
    });
    const area = `${path}V${y(0).toFixed(1)}H${left}Z`;
    return [svg("path", { d: area, class: `area tone-${tone}` }), svg("path", { d: path, class: `edge tone-${tone}` })];
  });
}

function ticksUpTo(most, isWhole) {
  const rough = isWhole ? Math.max(1, most / 3) : most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((base) => base * power).find((each) => each >= rough);
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, number) => number * step);
}

// As many round times as fit: [number of the interval, text].
function timeTicks(at, width) {
  if (at.length < 2) return at.map((_, number) => [number, clock(at[number], at)]);
  const [first, last] = [at[0], at.at(-1)];
  const least = ((last - first) / 1000) * (TICK_WIDTH / width);
  const step = 1000 * (STEPS_S.find((each) => each >= least) ?? Math.ceil(least / 604_800) * 604_800);
  const zone = new Date(first).getTimezoneOffset() * 60_000;
  const found = [];
  for (let tick = Math.ceil((first - zone) / step) * step + zone; tick <= last; tick += step) {
    found.push([((tick - first) / (last - first)) * (at.length - 1), clock(tick, at)]);
  }
  return found.length > 1
    ? found
    : [
        [0, clock(first, at)],
        [at.length - 1, clock(last, at)],
      ];
}

function clock(ms, all) {
  const length = (all.at(-1) - all[0]) / 1000;
  const at = new Date(ms);
  if (length > 172_800) return at.toLocaleDateString("en", { month: "short", day: "numeric" });
  const seconds = length < 600 ? { second: "2-digit" } : {};
  return at.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...seconds });
}
