// The pad: two latents under a finger, decoded while it moves. One request at a time, the newest place first.

import { row } from "../parts/arrays.js";
import { fill, h, heading, select, slider } from "../parts/dom.js";
import { latest } from "../parts/latest.js";
import { clamp, plain } from "../parts/numbers.js";
import { described, extent, paint } from "../parts/picture.js";

const CELLS = 9;

export class Pad {
  constructor({ decode, fail }) {
    Object.assign(this, { decode, fail });
    const dims = () => this.redraw();
    this.across = select([], 0, dims);
    this.up = select([], 0, dims);
    this.sliders = [slider("across", { min: -3, max: 3, step: 0.01, value: 0, text: (v) => plain(v) }, () => this.#moved()),
      slider("up", { min: -3, max: 3, step: 0.01, value: 0, text: (v) => plain(v) }, () => this.#moved())];
    this.map = h("canvas");
    this.knob = h("div", { class: "knob" });
    this.surface = h("div", { class: "pad", "aria-hidden": "true", "data-decoded": "0" }, this.map, this.knob);
    this.picture = h("canvas", { role: "img" });
    this.rate = h("p", { class: "caption" });
    this.element = h("section", { class: "section" },
      heading("Two latents at once", "The small pictures are means over a grid of the two; drag across them, or use the sliders, and the large one follows."),
      h("div", { class: "padded" }, this.surface, h("div", { class: "controls" }, h("div", { class: "figure" }, this.picture), this.rate,
        h("div", { class: "pair" }, h("label", { class: "field" }, h("span", {}, "Across"), this.across), h("label", { class: "field" }, h("span", {}, "Up"), this.up)),
        this.sliders.map(({ element }) => element))));
    this.times = [];
    this.ask = latest((z) => this.#decode(z), fail);
    this.#listen();
  }

  /** Around z, over its two most informative dimensions at first. */
  show(model, latents, z) {
    const another = this.model !== model;
    Object.assign(this, { model, latents, z });
    if (another) {
      const options = latents.order.map((d) => [d, `z${d + 1}${latents.kl ? `, KL ${plain(latents.kl[d])}` : ""}`]);
      fill(this.across, options, latents.order[0]);
      fill(this.up, options, latents.order[1]);
    }
    this.redraw();
  }

  /** The grid of means behind the pad, and the picture at z. */
  async redraw() {
    const { model, latents, z } = this;
    const [a, b] = this.#dims();
    [a, b].forEach((d, i) => {
      this.sliders[i].range(latents.low[d], latents.high[d], (latents.high[d] - latents.low[d]) / 600);
      this.sliders[i].value = clamp(z[d], latents.low[d], latents.high[d]);
      this.sliders[i].input.setAttribute("aria-label", `z${d + 1}`);
      this.sliders[i].element.querySelector("span span").textContent = `z${d + 1}`;
    });
    this.#moved();
    try {
      const at = (d, share) => latents.low[d] + share * (latents.high[d] - latents.low[d]);
      const cells = Array.from({ length: CELLS * CELLS }, (_, i) => [((i % CELLS) + 0.5) / CELLS, 1 - (Math.floor(i / CELLS) + 0.5) / CELLS]);
      const x = await this.decode(cells.map(([u, v]) => Float32Array.from(z, (value, i) => (i === a ? at(a, u) : i === b ? at(b, v) : value))));
      if (model !== this.model) return;
      this.#paintMap(model, x);
    } catch (error) {
      this.fail(error);
    }
  }

  #dims() {
    return [Number(this.across.value), Number(this.up.value)];
  }

  #paintMap(model, x) {
    const range = extent(model, x.data);
    const cell = h("canvas");
    for (let i = 0; i < CELLS * CELLS; i += 1) {
      paint(cell, model, row(x, i), range);
      const [wide, tall] = [cell.width + 1, cell.height + 1];
      if (i === 0) Object.assign(this.map, { width: wide * CELLS - 1, height: tall * CELLS - 1 });
      this.map.getContext("2d").drawImage(cell, (i % CELLS) * wide, Math.floor(i / CELLS) * tall);
    }
    this.map.classList.toggle("pixels", model.image);
  }

  /** What the sliders say is where the knob is, and what is decoded. */
  #moved() {
    // Before the first latent is there, there is nothing to turn.
    if (!this.z) return;
    const [a, b] = this.#dims();
    const z = Float32Array.from(this.z);
    const share = this.sliders.map(({ value, input }) => (value - input.min) / (input.max - input.min));
    z[b] = this.sliders[1].value;
    z[a] = this.sliders[0].value;
    this.knob.style.left = `${share[0] * 100}%`;
    this.knob.style.top = `${(1 - share[1]) * 100}%`;
    this.ask(z);
  }

  async #decode(z) {
    const { model } = this;
    const started = performance.now();
    const x = row(await this.decode([z]), 0);
    if (model !== this.model) return;
    const [a, b] = this.#dims();
    paint(this.picture, model, x, extent(model, x));
    this.picture.setAttribute("aria-label", `Mean at z${a + 1} = ${plain(z[a])}, z${b + 1} = ${plain(z[b])}: ${described(model, x)}`);
    this.surface.dataset.decoded = String(Number(this.surface.dataset.decoded) + 1);
    const now = performance.now();
    this.times = [...this.times.filter((time) => now - time < 1000), now];
    const speed = this.times.length > 3 ? `${this.times.length} pictures in the last second, ` : "";
    this.rate.textContent = `${speed}${plain(now - started, 0)} ms for this one`;
  }

  #listen() {
    let dragging = false;
    const follow = (event) => {
      const box = this.surface.getBoundingClientRect();
      const share = [(event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
      this.sliders.forEach((control, i) => {
        const { min, max } = control.input;
        control.value = Number(min) + clamp(share[i], 0, 1) * (max - min);
      });
      this.#moved();
    };
    this.surface.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      dragging = true;
      this.surface.setPointerCapture(event.pointerId);
      follow(event);
    });
    this.surface.addEventListener("pointermove", (event) => { if (dragging) follow(event); });
    for (const kind of ["pointerup", "pointercancel"]) this.surface.addEventListener(kind, () => { dragging = false; });
  }
}
