"""What keeps people from using a page, as a browser tells it: controls without a name, text that is hard to read."""

from typing import Any

from selenium import webdriver

#: Roles that a person acts on or asks for by name.
_NAMED = frozenset(
    {"button", "link", "textbox", "searchbox", "combobox", "checkbox", "dialog", "image", "img", "navigation"}
)
#: Least contrast of text, and of text from 24 px, or 18.66 px in bold. Source: WCAG 2.2, 1.4.3, level AA.
_CONTRAST = """
const [LEAST, LEAST_LARGE] = [4.5, 3];
const parse = (text) => {
  const found = text.match(/[\\d.]+/g).map(Number);
  return [...found.slice(0, 3), found[3] ?? 1];
};
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const over = (top, ground) => top.slice(0, 3).map((v, at) => v * top[3] + ground[at] * (1 - top[3]));
function groundOf(node) {
  const layers = [];
  for (let at = node; at !== null; at = at.parentElement) layers.push(parse(getComputedStyle(at).backgroundColor));
  return layers.reverse().reduce((ground, layer) => over(layer, ground), [255, 255, 255]);
}
const found = new Set();
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let text = walker.nextNode(); text !== null; text = walker.nextNode()) {
  const node = text.parentElement;
  if (!text.textContent.trim() || node === null || !node.checkVisibility({ visibilityProperty: true })) continue;
  const style = getComputedStyle(node);
  const isSvg = node instanceof SVGElement;
  const ground = groundOf(node);
  const ink = over(parse(isSvg ? style.fill : style.color), ground);
  const [light, dark] = [luminance(ink), luminance(ground)].sort((a, b) => b - a);
  const [ratio, size] = [(light + 0.05) / (dark + 0.05), parseFloat(style.fontSize)];
  const isLarge = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (isLarge ? LEAST_LARGE : LEAST)) {
    found.add(`contrast ${ratio.toFixed(2)}: ${text.textContent.trim().slice(0, 40)}`);
  }
}
return [...found];
"""
_DOUBLE_IDS = """
const ids = [...document.querySelectorAll('[id]')].map((each) => each.id);
return ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => `two elements have the id ${id}`);
"""
_ONE_HEADING = "return document.querySelectorAll('h1').length === 1 ? [] : ['not exactly one h1'];"


def accessibility_problems(driver: webdriver.Chrome) -> list[str]:
    """Return what is wrong with the page as it is shown now; no problem: an empty list."""
    problems = [
        str(each) for script in (_CONTRAST, _DOUBLE_IDS, _ONE_HEADING) for each in driver.execute_script(script)
    ]
    tree: dict[str, Any] = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})
    for node in tree["nodes"]:
        role, name = node.get("role", {}).get("value", ""), node.get("name", {}).get("value", "")
        if not node.get("ignored") and role in _NAMED and not name.strip():
            problems.append(f"a {role} without a name")
    return problems
