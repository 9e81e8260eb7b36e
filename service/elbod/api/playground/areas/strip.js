// The denoising strip: what the model expects of one picture at each level on its way from noise.

import { post } from "../parts/api.js";
import { row, unpack } from "../parts/arrays.js";
import { field, h, heading, select, slider } from "../parts/dom.js";
import { Grid } from "../parts/grid.js";
import { latest } from "../parts/latest.js";
import { described, extent, paint } from "../parts/picture.js";

const COUNTS = [4, 8, 12, 16];

export class Strip {
  constructor(fail) {
    this.count = select(COUNTS.map((n) => [n, `${n} pictures`]), 8, () => this.ask());
    this.grid = new Grid("Denoising strip", (i) => { this.place.value = i; this.#display(); }, { columns: 1 });
    this.place = slider("Level", { min: 0, max: 0, step: 1, value: 0, text: (i) => this.#text(i) }, () => this.#display());
    this.canvas = h("canvas", { role: "img" });
    this.words = h("p", { class: "caption" });
    this.element = h("section", { class: "section strip", hidden: true },
      heading("From noise to a picture", "z begins as noise, and each pass takes some of it away. Shown is what the model expects on the way, E[x|z] at a level."),
      this.grid.element,
      h("div", { class: "scrubbed" }, h("div", { class: "figure small" }, this.canvas),
        h("div", { class: "controls" }, this.place.element, field("Length of the strip", this.count), this.words)));
    const show = latest(() => this.#fetch(), fail);
    this.ask = () => { if (this.wanted) show(); };
  }

  /** The way of one picture: `fields` are those of its request, for one row; null chain: there is no way. */
  show(model, chain, fields, name) {
    this.element.hidden = chain === null;
    this.wanted = chain && { model, chain, fields, name };
    this.ask();
  }

  async #fetch() {
    const { wanted } = this;
    const answer = await post("sample", { ...wanted.fields, include: ["trajectory"], trajectory_steps: Number(this.count.value) });
    if (wanted !== this.wanted) return;
    const { shape, data } = unpack(answer.trajectory);
    const before = this.place.value;
    const atEnd = !this.shown || before === this.shown.levels.length - 1;
    this.shown = { ...wanted, levels: answer.trajectory_levels, x: { shape: shape.slice(1), data } };
    const last = this.shown.levels.length - 1;
    this.grid.fixed = last + 1;
    this.grid.show(wanted.model, this.shown.x, (i) => wanted.chain.text(this.shown.levels[i]));
    this.place.range(0, last, 1);
    this.place.value = atEnd ? last : Math.min(before, last);
    this.words.textContent = `${wanted.name}, at ${last + 1} of the ${answer.process.num_steps + 1} levels of its way`;
    this.#display();
  }

  #text(i) {
    return this.shown ? this.shown.chain.text(this.shown.levels[i]) : "";
  }

  /** The large picture at the level of the slider. */
  #display() {
    const { model, x } = this.shown;
    const picture = row(x, this.place.value);
    paint(this.canvas, model, picture, extent(model, x.data));
    this.canvas.setAttribute("aria-label", `E[x|z] at ${this.#text(this.place.value)}: ${described(model, picture)}`);
    this.grid.mark(this.place.value);
  }
}
