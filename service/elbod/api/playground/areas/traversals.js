// Traversals: a row of pictures for each of the most informative dimensions.

import { h } from "../parts/dom.js";
import { Grid } from "../parts/grid.js";
import { plain } from "../parts/numbers.js";

const MOST_ROWS = 8;
const STEPS = 9;

export class Traversals {
  constructor({ decode, begin, fail }) {
    Object.assign(this, { decode, begin, fail });
    this.rows = h("div", { class: "traversals" });
    this.words = h("p", {});
    this.element = h("section", { class: "section" }, h("div", { class: "heading" }, h("h2", {}, "One latent at a time"), this.words), this.rows);
  }

  /** From z, the dimensions that say most first. */
  async show(model, latents, z) {
    const dims = latents.order.slice(0, MOST_ROWS);
    const at = (d, step) => latents.low[d] + (step / (STEPS - 1)) * (latents.high[d] - latents.low[d]);
    const wanted = dims.flatMap((d) => Array.from({ length: STEPS }, (_, step) => Float32Array.from(z, (value, i) => (i === d ? at(d, step) : value))));
    const x = await this.decode(wanted);
    this.words.textContent = `${dims.length} of ${latents.dim} dimensions, ordered by ${latents.orderedBy}. Click a picture to go on from there.`;
    const size = x.data.length / x.shape[0];
    this.rows.replaceChildren(...dims.map((d, r) => {
      const part = { shape: [STEPS, ...x.shape.slice(1)], data: x.data.subarray(r * STEPS * size, (r + 1) * STEPS * size) };
      const name = `z${d + 1}`;
      const grid = new Grid(`Traversal of ${name}`, (step) => this.begin(wanted[r * STEPS + step], `${name} turned to ${plain(at(d, step))}`), { columns: STEPS });
      grid.show(model, part, (step) => `${name} = ${plain(at(d, step))}`);
      const kl = latents.kl ? `KL ${plain(latents.kl[d])} nats` : "";
      return h("div", { class: "traversal" }, h("div", { class: "title" }, h("strong", {}, name), h("span", { class: "caption" }, kl),
        h("span", { class: "caption" }, `${plain(latents.low[d], 1)} … ${plain(latents.high[d], 1)}`)), grid.element);
    }));
  }
}
