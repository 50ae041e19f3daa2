// The notices of a batch, newest first; nothing while there are none.

import { card, el } from "./elements.js";

export function noticesCard() {
  const list = el("ul", { class: "notices" });
  const node = card("Notices", list);
  function show({ notices }) {
    list.replaceChildren(...notices.toReversed().map((each) => el("li", {}, each)));
    node.hidden = notices.length === 0;
  }
  node.hidden = true;
  return { node, show };
}
