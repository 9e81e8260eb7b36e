// What was scored, what became of it, and what each element of it cost.

import { row, unpack } from "../parts/arrays.js";
import { h } from "../parts/dom.js";
import { plain } from "../parts/numbers.js";
import { described, extent, paint, paintMap } from "../parts/picture.js";
import { lines } from "../parts/plots.js";

/** The row, its reconstruction `mean` or null, and the maps of the answer; `chain` for draws that take passes. */
export function maps(model, x, answer, mean, chain) {
  const range = extent(model, mean ? [...x, ...mean].map(Number) : x);
  const found = [picture(model, x, range, "Scored", model.image ? `exactly these ${model.width} × ${model.height} pixels` : `${model.size} numbers`)];
  if (mean) found.push(picture(model, mean, range, "Reconstruction", chain ? "E[x|z] at the level with the least noise" : "E[x|z] at the most likely z"));
  found.push(map(model, row(unpack(answer.reconstruction_map), 0), { title: "Where the nats go", what: "Contribution", of: "log p(x_i|z)", more: "strong colour counts most", worst: "the lowest cost most" }));
  if (answer.bound_map) {
    found.push(map(model, row(unpack(answer.bound_map), 0), { title: "Where the bound goes", what: "Share of the ELBO", of: "each share of the ELBO", more: "they add up to it", worst: "they add up to the ELBO" }));
  }
  return h("div", { class: `triptych${found.length > 3 ? " four" : ""}` }, found);
}

function picture(model, x, range, title, words) {
  const canvas = h("canvas", { role: "img", "aria-label": `${title === "Scored" ? "" : `${title}: `}${described(model, x)}` });
  paint(canvas, model, x, range);
  return h("figure", {}, h("div", { class: "figure" }, canvas), h("figcaption", {}, h("strong", {}, title), words));
}

/** A number for each element, as colours of a picture or as a line. */
function map(model, values, { title, what, of, more, worst }) {
  const low = values.reduce((a, b) => Math.min(a, b), 0);
  const high = values.reduce((a, b) => Math.max(a, b), 0);
  const label = `${what} of each element, from ${plain(low, 2)} to ${plain(high, 2)} nats`;
  if (!model.image) {
    const plot = lines([{ points: Array.from(values, (value, i) => [i, value]) }], { label, width: 300, height: 206, xLabel: "element", unit: "nats" });
    return h("figure", {}, plot, h("figcaption", {}, h("strong", {}, title), `${of} of each element, ${plain(low, 1)} to ${plain(high, 1)} nats; ${worst}`));
  }
  const canvas = h("canvas", { role: "img", "aria-label": label });
  const scale = model.channels === 3 ? 3 : 1;
  paintMap(canvas, model, values, low * scale, high * scale);
  return h("figure", {}, h("div", { class: "figure" }, canvas),
    h("figcaption", {}, h("strong", {}, title), `${high > 0 ? "" : "cost "}${of}, ${plain(low, 1)} to ${plain(high, 1)} nats an element; ${more}`));
}
