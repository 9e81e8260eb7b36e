// A model's card: the little markdown that cards are written in, as elements. Markup in it stays text.

import { h } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*/g;

function inline(text) {
  const parts = [];
  let done = 0;
  for (const match of text.matchAll(INLINE)) {
    parts.push(text.slice(done, match.index));
    if (match[1] !== undefined) parts.push(h("code", {}, match[1]));
    else parts.push(h(match[2] !== undefined ? "strong" : "em", {}, match[2] ?? match[3]));
    done = match.index + match[0].length;
  }
  return [...parts, text.slice(done)];
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function table(lines) {
  const [head, , ...rows] = lines.map(cells);
  const body = rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell)))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of the card" },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((cell) => h("th", { scope: "col" }, cell || h("span", { class: "unseen" }, "what"))))), h("tbody", {}, body)));
}

function list(lines) {
  const items = [];
  for (const line of lines) {
    if (line.startsWith("- ")) items.push(line.slice(2));
    else items[items.length - 1] += ` ${line.trim()}`;
  }
  return h("ul", {}, items.map((item) => h("li", {}, inline(item))));
}

function block(lines) {
  const heading = /^(#{1,4}) (.*)$/.exec(lines[0]);
  if (heading) {
    const found = [h(`h${Math.min(6, heading[1].length + 3)}`, {}, inline(heading[2]))];
    return lines.length > 1 ? [...found, block(lines.slice(1))].flat() : found;
  }
  if (lines.every((line) => /^ {4}/.test(line))) return [h("pre", { tabindex: "0" }, lines.map((line) => line.slice(4)).join("\n"))];
  if (lines.length > 1 && lines[0].startsWith("|") && /^[|\s:-]+$/.test(lines[1])) return [table(lines)];
  if (lines[0].startsWith("- ")) return [list(lines)];
  return [h("p", {}, inline(lines.join(" ")))];
}

/** Elements for a text in markdown. */
export function rendered(text) {
  return text.split(/\n\s*\n/).map((part) => part.split("\n").filter((line) => line.trim())).filter((lines) => lines.length).flatMap(block);
}
