// Dialogs: a question that says what will happen, and a form for limits.

import { ask } from "./api.js";
import { button, el, say } from "./elements.js";

let made = 0;

function open(title, ...content) {
  made += 1;
  const heading = el("h2", { id: `dialog-${made}` }, title);
  const form = el("form", { method: "dialog" }, heading, ...content);
  const dialog = el("dialog", { "aria-labelledby": heading.id }, form);
  dialog.addEventListener("close", () => dialog.remove(), { once: true });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, form };
}

// Ask, and return whether the answer is yes. `effects` are sentences; the first button is the safe one.
export function isSure(title, effects, doIt, isDanger = true) {
  const list = el("ul", { class: "effects" }, ...effects.map((effect) => el("li", {}, effect)));
  const no = el("button", { value: "no", autofocus: true }, "Not now");
  const yes = el("button", { value: "yes", class: isDanger ? "danger" : "main" }, doIt);
  const { dialog } = open(title, list, el("div", { class: "buttons" }, no, yes));
  return new Promise((answer) => {
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true });
  });
}

// Change limits: fields are [name, label, value]. Only changed ones are sent.
export function changeLimits(title, note, path, fields) {
  const rows = fields.map(([name, label, value]) => {
    const input = el("input", { name, value: value ?? "", autocomplete: "off", inputmode: "decimal" });
    return el("label", {}, el("span", {}, label), input);
  });
  const trouble = el("p", { class: "trouble", role: "alert" });
  const { dialog, form } = open(
    title,
    el("p", { class: "soft small" }, note),
    ...rows,
    trouble,
    el(
      "div",
      { class: "buttons" },
      button("Close", () => dialog.close()),
      el("button", { type: "submit", class: "main" }, "Change"),
    ),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const inputs = [...form.querySelectorAll("input")].filter((input) => input.value !== input.defaultValue);
    const body = Object.fromEntries(inputs.map((input) => [input.name, valueOf(input.value.trim())]));
    try {
      await ask("PATCH", path, { body });
      dialog.close();
      say("Limits changed.");
    } catch (error) {
      trouble.textContent = error.message;
    }
  });
}

function valueOf(text) {
  if (text === "" || text === "none") return null;
  return Number.isNaN(Number(text)) ? text : Number(text);
}
