// The tab's title and icon: they show trouble while the page is not in front.

import { count } from "./words.js";

const COLOURS = { well: "#0f8f6b", trouble: "#d1490c", lost: "#8a939b" };
const icon = document.querySelector("link[rel=icon]");
let shown = "";

// `attention` is the number of batches that need a person; `lost` is true while the worker does not answer.
export function showSign(title, { attention, isInTrouble, isLost }) {
  const kind = isLost ? "lost" : attention || isInTrouble ? "trouble" : "well";
  const mark = isLost ? "✕ " : attention ? `(${count(attention)}) ` : isInTrouble ? "! " : "";
  document.title = `${mark}${title} · batchrun`;
  if (shown === kind) return;
  shown = kind;
  const sign = { well: "M9 16l5 5 9-10", trouble: "M16 8v10M16 23v1", lost: "M11 11l10 10M21 11l-10 10" }[kind];
  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="${
    COLOURS[kind]
  }"/><path d="${sign}" fill="none" stroke="#fff" stroke-width="4" stroke-linecap="round"/></svg>`;
  icon.href = `data:image/svg+xml,${encodeURIComponent(drawing)}`;
}
