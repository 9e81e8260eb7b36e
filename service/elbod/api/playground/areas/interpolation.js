// Interpolation: the pictures on a straight line between two z.

import { post } from "../parts/api.js";
import { row, unpack } from "../parts/arrays.js";
import { h, select, fill, slider } from "../parts/dom.js";
import { Grid } from "../parts/grid.js";
import { latest } from "../parts/latest.js";
import { plain } from "../parts/numbers.js";
import { extent, paint } from "../parts/picture.js";
import { means, sharedNoise } from "./lines.js";

const STEPS = 9;
const DRAWN = "drawn";
const KEPT = "kept";

export class Interpolation {
  /** `label` is what requests say of it. */
  constructor(app, { label, fail }) {
    Object.assign(this, { app, label, fail });
    this.slots = Object.fromEntries(["a", "b"].map((slot) => {
      const canvas = h("canvas", { role: "img", "aria-label": `End ${slot.toUpperCase()}` });
      const pick = select([], DRAWN, () => this.#choose(slot, pick.value));
      pick.setAttribute("aria-label", `End ${slot.toUpperCase()}`);
      const again = h("button", { type: "button", onclick: () => { pick.value = DRAWN; this.#choose(slot, DRAWN); } }, "Another draw");
      return [slot, { canvas, pick, element: h("div", { class: "end" }, h("div", { class: "figure small" }, canvas), h("div", { class: "controls" }, h("h3", {}, `End ${slot.toUpperCase()}`), pick, again)) }];
    }));
    this.strip = new Grid("From end A to end B", (i) => { this.place.value = i / (STEPS - 1); this.ask(i / (STEPS - 1)); }, { columns: STEPS });
    this.place = slider("Place between A and B", { min: 0, max: 1, step: 0.01, value: 0.5, text: (t) => plain(t) }, (t) => this.ask(t));
    this.level = slider("Level of the line", { min: 0, max: 0, step: 1, value: 0, text: (level) => this.chain?.text(level) ?? "" }, () => this.another());
    this.canvas = h("canvas", { role: "img" });
    this.words = h("p", {});
    this.element = h("section", { class: "section" },
      h("div", { class: "heading" }, h("h2", {}, "From one picture to another"), this.words),
      h("div", { class: "ends" }, this.slots.a.element, this.slots.b.element), h("div", { class: "between" }, this.level.element),
      this.strip.element, h("div", { class: "between" }, h("div", { class: "figure small" }, this.canvas), this.place.element));
    this.ask = latest((t) => this.#between(t), fail);
    this.another = latest(() => this.#relevel(), fail);
  }

  /** `chain` are the levels of a model whose draws take passes, else null. */
  async show(model, chain) {
    if (this.model !== model) {
      Object.assign(this, { model, chain });
      this.level.element.parentElement.hidden = chain === null;
      if (chain) {
        this.level.range(0, chain.top, 1);
        this.level.value = chain.middle;
      }
      this.line = chain ? sharedNoise(model, chain.middle) : means(model);
      this.words.textContent = this.line.words;
      this.reference = await model.heldOut();
    }
    const examples = this.reference?.x.shape[0] ?? 0;
    for (const slot of ["a", "b"]) {
      const { pick } = this.slots[slot];
      const kept = this.app.slots[slot]?.reference === model.reference ? this.app.slots[slot] : null;
      const before = pick.value;
      fill(pick, [[DRAWN, "A draw from the prior"], ...(kept ? [[KEPT, kept.name]] : []), ...Array.from({ length: examples }, (_, i) => [i, `Held-out example ${i}`])], kept ? KEPT : before);
      if (kept) await this.#fetch(slot, KEPT);
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

  /** Make that the end, unless another is wanted by the time it is there. */
  async #fetch(slot, what) {
    const { model } = this;
    const wanted = this.slots[slot].wanted = { what };
    const end = await this.#end(slot, what);
    if (model === this.model && wanted === this.slots[slot].wanted) Object.assign(this.slots[slot], { end, of: model });
  }

  /** {x, z, label} of an end: drawn, kept, or a held-out row, whose z is not known. */
  async #end(slot, what) {
    const { model, reference } = this;
    if (what === KEPT) {
      const { x, z, label } = this.app.slots[slot];
      return { x, z, label: label === null ? {} : { label } };
    }
    if (what !== DRAWN) return { x: row(reference.x, Number(what)), z: null, label: reference.label ? { label: reference.label.data[what] } : {} };
    const label = model.label(0, 1);
    const { x, z } = await post("sample", { model: model.reference, ...label });
    return { x: row(unpack(x), 0), z: row(unpack(z), 0), label };
  }

  /** The same ends under more noise, or less. */
  async #relevel() {
    this.line = sharedNoise(this.model, this.level.value);
    await this.#draw();
  }

  /** Whether both ends are there: nothing is drawn before. */
  get #ended() {
    return Object.values(this.slots).every(({ of }) => of === this.model);
  }

  /** The pictures at places from 0, end A, to 1, end B, on a line. */
  async #at(line, places) {
    const [a, b] = await Promise.all(["a", "b"].map((slot) => line.code(this.slots[slot].end)));
    return line.pictures(places.map((t) => Float32Array.from(a, (value, i) => value + t * (b[i] - value))), this.label());
  }

  async #draw() {
    if (!this.#ended) return;
    const { model, line } = this;
    const x = await this.#at(line, Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1)));
    if (line !== this.line) return;
    this.strip.show(model, x, (i) => (i === 0 ? "End A" : i === STEPS - 1 ? "End B" : `${i} of ${STEPS - 1} from A to B`));
    this.strip.element.dataset.level = line.level;
    const range = extent(model, x.data);
    const { a, b } = this.slots;
    paint(a.canvas, model, this.chain ? a.end.x : row(x, 0), range);
    paint(b.canvas, model, this.chain ? b.end.x : row(x, STEPS - 1), range);
    this.ask(this.place.value);
  }

  async #between(t) {
    if (!this.#ended) return;
    const { model, line } = this;
    const x = row(await this.#at(line, [t]), 0);
    if (line !== this.line) return;
    paint(this.canvas, model, x, extent(model, x));
    this.canvas.setAttribute("aria-label", `The picture ${plain(t * 100, 0)} % of the way from A to B`);
  }
}
