// Variations of one picture: noised up to a level, and drawn from there again.

import { post } from "../parts/api.js";
import { pack, row, unpack } from "../parts/arrays.js";
import { h, heading, slider } from "../parts/dom.js";
import { Grid } from "../parts/grid.js";
import { latest } from "../parts/latest.js";

const DRAWS = 8;

export class Variations {
  /** `label` is what requests say of it; `begin(x, name)` makes a variation the next picture to vary. */
  constructor({ label, begin, fail }) {
    Object.assign(this, { label });
    this.seed = 0;
    this.level = slider("Level of noise", { min: 0, max: 0, step: 1, value: 0, text: (level) => this.chain?.text(level) ?? "" }, () => this.ask());
    this.grid = new Grid("Variations of this picture", (i) => begin(row(this.x, i).slice(), `Variation ${i} at ${this.chain.text(this.level.value)}`), { columns: DRAWS });
    this.element = h("section", { class: "section" },
      heading("Variations of this picture", "Noise is added up to a level, and the model draws from there: at level 0 the picture stays, at the last one nothing of it is left. Click a variation to vary it next."),
      h("div", { class: "between" }, this.level.element, h("button", { type: "button", onclick: () => { this.seed += 1; this.ask(); } }, "Other draws")),
      this.grid.element);
    this.ask = latest(() => this.#draw(), fail);
  }

  /** Of x, a typed row. */
  show(model, chain, x) {
    const another = this.model !== model;
    Object.assign(this, { model, chain, given: x });
    if (another) {
      this.level.range(0, chain.top, 1);
      this.level.value = chain.middle;
    }
    return this.ask();
  }

  async #draw() {
    const { model, given, chain } = this;
    const level = this.level.value;
    const rows = model.rows(DRAWS);
    for (let i = 0; i < DRAWS; i += 1) rows.set(given, i * given.length);
    const answer = await post("sample", { model: model.reference, x: pack(rows, [DRAWS, ...model.shape]), level, seed: this.seed, ...this.label() });
    if (model !== this.model) return;
    this.x = unpack(answer.x);
    this.grid.show(model, this.x, (i) => `Variation ${i} at ${chain.text(level)}`);
    this.grid.element.dataset.level = level;
  }
}
