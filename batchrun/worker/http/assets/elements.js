// Elements. Whatever comes from outside is set as text, never as markup.

export const byId = (id) => document.getElementById(id);

export function el(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...content.filter((each) => each !== null && each !== undefined && each !== false));
  return made;
}

export function svg(name, attributes = {}, ...content) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

export const link = (href, text, attributes = {}) => el("a", { href, ...attributes }, text);
// A link to another tab, which learns nothing of this one.
export const outerLink = (href, text, attributes = {}) =>
  link(href, text, { target: "_blank", rel: "noreferrer", ...attributes });
const isLocal = (host) => host === "localhost" || host === "[::1]" || host.startsWith("127.");
// Whether an address leads to the same place from here: one of the worker's own machine does only on that machine.
export const isReachable = (url) => url !== null && (!isLocal(new URL(url).hostname) || isLocal(location.hostname));
export const button = (text, onclick, attributes = {}) =>
  el("button", { type: "button", onclick, ...attributes }, text);
export const searchInput = (id, placeholder) =>
  el("input", { type: "search", id, placeholder, autocomplete: "off", maxlength: "200", size: "26" });
export const labelled = (text, input) => el("span", { class: "field" }, el("label", { for: input.id }, text), input);
// A line that is read out when it changes.
export const statusLine = (text = "") => el("p", { class: "soft", role: "status" }, text);
export const swatch = (tone) => el("span", { class: `swatch tone-${tone}`, "aria-hidden": "true" });

// Set a text only if it is new: one in a live region is read out.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

// A part of the page, with its heading.
export function card(title, ...content) {
  const heading = el("h2", {}, title);
  const note = el("span", { class: "note" });
  const head = el("header", {}, heading, note);
  return Object.assign(el("section", { class: "card", "aria-label": title }, head, ...content), { head, note });
}

// A table that scrolls sideways in its own frame.
export function table(title, headings, body) {
  const head = el("tr", {}, ...headings.map(([text, kind]) => el("th", { scope: "col", class: kind }, text)));
  const whole = el("table", {}, el("thead", {}, head), body);
  return el("div", { class: "scroll", role: "group", tabindex: "0", "aria-label": title }, whole);
}

export const cell = (kind, ...content) => el("td", { class: kind }, ...content);

// Figures in large print: [name, value, note].
export function fillTiles(list, figures) {
  const now = JSON.stringify(figures);
  if (list.shown === now) return;
  list.shown = now;
  list.replaceChildren(
    ...figures.map(([name, value, note]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value), note ? el("dd", {}, note) : null),
    ),
  );
}

export function fillFacts(list, facts) {
  const known = facts.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const now = JSON.stringify(known);
  if (list.shown === now) return;
  list.shown = now;
  list.replaceChildren(...known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

// Show one row per item. A row is made once and then changed in its place, so that the focus stays.
export function fillRows(body, items, keyOf, make) {
  const before = body.rowsByKey ?? new Map();
  const now = new Map();
  let at = body.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const row = before.get(key) ?? make(item);
    now.set(key, row);
    row.show(item);
    if (row.node === at) at = at.nextElementSibling;
    else body.insertBefore(row.node, at);
  }
  for (const [key, row] of before) {
    if (!now.has(key)) row.node.remove();
  }
  body.rowsByKey = now;
}

// Links to the pages before and after; `address` makes the address of one from its offset.
export function fillPager(pager, { total, offset, limit }, address) {
  if (offset === 0 && total <= limit) return pager.replaceChildren();
  if (pager.childElementCount === 0) pager.append(el("span"), link("#", "Previous"), link("#", "Next"));
  const [said, back, on] = pager.children;
  const [first, last] = [offset + 1, offset + limit].map((place) => Math.min(place, total).toLocaleString("en"));
  setText(said, `${first} to ${last} of ${total.toLocaleString("en")}`);
  const lead = (to, isThere, where) => (isThere ? to.setAttribute("href", address(where)) : to.removeAttribute("href"));
  lead(back, offset > 0, Math.max(0, offset - limit));
  lead(on, offset + limit < total, offset + limit);
}

export function say(text) {
  byId("said").textContent = "";
  byId("said").textContent = text;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => setText(byId("said"), ""), 8000);
}

// Do something again and again while the view is shown, but not in a tab in the background.
export async function every(ms, signal, work) {
  while (!signal.aborted) {
    if (!document.hidden) await work();
    await new Promise((done) => {
      const timer = setTimeout(done, ms);
      signal.addEventListener("abort", () => (clearTimeout(timer), done()), { once: true });
    });
  }
}
