// Interpolation: the pictures on the straight line between two z.

import { get, post } from "../parts/api.js";
import { pack, row, unpack } from "../parts/arrays.js";
import { h, heading, select, fill, slider } from "../parts/dom.js";
import { Grid } from "../parts/grid.js";
import { latest } from "../parts/latest.js";
import { plain } from "../parts/numbers.js";
import { extent, paint } from "../parts/picture.js";

const STEPS = 9;
const DRAWN = "drawn";
const KEPT = "kept";

export class Interpolation {
  constructor(app, { decode, fail }) {
    Object.assign(this, { app, decode, fail });
    this.slots = Object.fromEntries(["a", "b"].map((slot) => {
      const canvas = h("canvas", { role: "img", "aria-label": `End ${slot.toUpperCase()}` });
      const pick = select([], DRAWN, () => this.#choose(slot, pick.value));
      pick.setAttribute("aria-label", `End ${slot.toUpperCase()}`);
      const again = h("button", { type: "button", onclick: () => { pick.value = DRAWN; this.#choose(slot, DRAWN); } }, "Another draw");
      return [slot, { canvas, pick, element: h("div", { class: "end" }, h("div", { class: "figure small" }, canvas), h("div", { class: "controls" }, h("h3", {}, `End ${slot.toUpperCase()}`), pick, again)) }];
    }));
    this.strip = new Grid("From end A to end B", (i) => { this.place.value = i / (STEPS - 1); this.ask(i / (STEPS - 1)); }, { columns: STEPS });
    this.place = slider("Place between A and B", { min: 0, max: 1, step: 0.01, value: 0.5, text: (t) => plain(t) }, (t) => this.ask(t));
    this.canvas = h("canvas", { role: "img" });
    this.element = h("section", { class: "section" },
      heading("From one picture to another", "Mean pictures on the straight line between two z."),
      h("div", { class: "ends" }, this.slots.a.element, this.slots.b.element),
      this.strip.element, h("div", { class: "between" }, h("div", { class: "figure small" }, this.canvas), this.place.element));
    this.ask = latest((t) => this.#between(t), fail);
  }

  async show(model) {
    if (this.model !== model) {
      this.model = model;
      const path = `models/${encodeURIComponent(model.name)}/versions/${model.version}/reference`;
      this.reference = model.manifest.reference ? await get(path) : null;
    }
    const examples = this.reference ? unpack(this.reference.x).shape[0] : 0;
    for (const slot of ["a", "b"]) {
      const { pick } = this.slots[slot];
      const kept = this.app.slots[slot]?.reference === model.reference ? this.app.slots[slot] : null;
      const before = pick.value;
      fill(pick, [[DRAWN, "A draw from the prior"], ...(kept ? [[KEPT, kept.name]] : []), ...Array.from({ length: examples }, (_, i) => [i, `Held-out example ${i}`])], kept ? KEPT : before);
      if (kept) Object.assign(this.slots[slot], { z: kept.z, of: model });
      if (this.slots[slot].of !== model) await this.#fetch(slot, DRAWN);
    }
    await this.#draw();
  }

  async #choose(slot, what) {
    try {
      this.app.slots[slot] = what === KEPT ? this.app.slots[slot] : null;
      await this.#fetch(slot, what);
      await this.#draw();
    } catch (error) {
      this.fail(error);
    }
  }

  /** The z of an end: drawn, kept, or the centre of q(z|x) of a held-out row. */
  async #fetch(slot, what) {
    const { model } = this;
    const about = { model: model.reference };
    let z;
    if (what === KEPT) z = this.app.slots[slot].z;
    else if (what === DRAWN) z = row(unpack((await post("sample", { ...about, ...model.label(0, 1) })).z), 0);
    else {
      const x = model.rows(1);
      x.set(Array.from(row(unpack(this.reference.x), Number(what)), (value) => (x instanceof BigInt64Array ? BigInt(value) : value)));
      const label = this.reference.label ? { label: unpack(this.reference.label).data[what] } : {};
      const answer = await post("sample", { ...about, ...label, x: pack(x, [1, ...model.shape]), temperature: 0, seed: 0, output: "mean" });
      z = row(unpack(answer.z), 0);
    }
    Object.assign(this.slots[slot], { z: Float32Array.from(z), of: model });
  }

  #on(t) {
    return Float32Array.from(this.slots.a.z, (value, i) => value + t * (this.slots.b.z[i] - value));
  }

  async #draw() {
    const { model } = this;
    const x = await this.decode(Array.from({ length: STEPS }, (_, i) => this.#on(i / (STEPS - 1))));
    if (model !== this.model) return;
    this.strip.show(model, x, (i) => (i === 0 ? "End A" : i === STEPS - 1 ? "End B" : `${i} of ${STEPS - 1} from A to B`));
    const range = extent(model, x.data);
    paint(this.slots.a.canvas, model, row(x, 0), range);
    paint(this.slots.b.canvas, model, row(x, STEPS - 1), range);
    this.ask(this.place.value);
  }

  async #between(t) {
    const { model } = this;
    const x = row(await this.decode([this.#on(t)]), 0);
    if (model !== this.model) return;
    paint(this.canvas, model, x, extent(model, x));
    this.canvas.setAttribute("aria-label", `The mean picture ${plain(t * 100, 0)} % of the way from A to B`);
  }
}
