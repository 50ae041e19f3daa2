// Downloads of a batch's output: by a link that needs no key.

import { linkTo } from "./api.js";
import { link, say } from "./elements.js";

export async function download(id, what, values = {}) {
  try {
    link(await linkTo(id, what, { ...values, download: 1 }), "", { download: "" }).click();
  } catch (error) {
    say(error.message);
  }
}
