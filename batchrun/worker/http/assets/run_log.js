// The end of a Run's log in a dialog, read again and again while it is open.

import { ask, pathOf } from "./api.js";
import { el, setText } from "./elements.js";

const EVERY_MS = 2000;

export function showLog(batchId, runId, title) {
  const end = new AbortController();
  const [text, note] = [
    el("pre", { tabindex: "0", role: "group", "aria-label": "End of the log" }),
    el("p", { class: "soft small", role: "status" }, "Reading…"),
  ];
  const heading = el("h2", { id: "log-title" }, title);
  const close = el("button", { value: "close", autofocus: true }, "Close");
  const dialog = el(
    "dialog",
    { class: "wide", "aria-labelledby": heading.id },
    el("form", { method: "dialog" }, el("div", { class: "line" }, heading, close), note, text),
  );
  dialog.addEventListener(
    "close",
    () => {
      end.abort();
      dialog.remove();
    },
    { once: true },
  );
  document.body.append(dialog);
  dialog.showModal();
  follow();

  async function follow() {
    while (!end.signal.aborted) {
      try {
        const log = await (
          await ask("GET", `${pathOf(batchId)}/runs/${encodeURIComponent(runId)}/log`, { signal: end.signal })
        ).text();
        const isAtEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 40;
        setText(text, log);
        setText(
          note,
          log === "" ? "The log is empty so far." : "The end of the log; it goes on here while the Run does.",
        );
        if (isAtEnd) text.scrollTop = text.scrollHeight;
      } catch (error) {
        if (end.signal.aborted) return;
        setText(note, error.message);
        if (error.status >= 400 && error.status < 500) return;
      }
      await new Promise((done) => setTimeout(done, EVERY_MS));
    }
  }
}
