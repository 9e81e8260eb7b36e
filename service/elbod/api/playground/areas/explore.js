// Explore: what each latent does, two of them at once, and the way from one picture to another.

import { post } from "../parts/api.js";
import { row, stack, unpack } from "../parts/arrays.js";
import { field, fill, h, heading, select } from "../parts/dom.js";
import { Failure } from "../parts/failure.js";
import { Grid } from "../parts/grid.js";
import { described, extent, paint } from "../parts/picture.js";
import { Interpolation } from "./interpolation.js";
import { Pad } from "./pad.js";
import { Traversals } from "./traversals.js";
import { Variations } from "./variations.js";

const OF_NUMBERS = "Each number of z is turned while the others stay, and the mean picture E[x|z] is decoded at every step.";
const OF_PASSES = "z is the whole picture under noise, so no number of it means anything alone. What can be turned is how much noise: all that it hides, the model draws again.";

export function build(panel, app) {
  const failure = new Failure();
  const fail = (error) => failure.show(error);
  const canvas = h("canvas", { role: "img" });
  const words = h("p", { class: "caption" });
  const label = select([], 0, () => draw());
  const labelField = field("Class", label);
  const centre = h("button", { type: "button", onclick: () => { app.taken = null; draw(); } });
  const start = h("section", { class: "start" }, h("div", { class: "figure small" }, canvas),
    h("div", { class: "controls" }, h("h3", {}, "Starting point"), words, labelField, h("div", { class: "actions" }, centre,
      h("button", { type: "button", onclick: () => app.open("sample") }, "Choose one in Sample"))));
  const chosenLabel = () => (app.model.labels ? Number(label.value) : null);
  const asked = () => (app.model.labels ? { label: chosenLabel() } : {});
  const take = (what) => { app.taken = { reference: app.model.reference, label: chosenLabel(), ...what }; draw(); };
  const about = { decode, begin: (z, name) => take({ z, name }), label: asked, fail };
  const traversals = new Traversals(about);
  const pad = new Pad(about);
  const interpolation = new Interpolation(app, about);
  const variations = new Variations({ ...about, begin: (x, name) => take({ x, name }) });
  const values = new Grid("Every value of z", () => {});
  const discrete = h("section", { class: "section" }, heading("Every value of z", "z is one of a few numbers here: each has one mean picture, and there is nothing in between."), values.element);
  let shownFor = null;

  const intro = h("p", {});
  panel.append(h("div", { class: "heading" }, h("h2", {}, "What the latents mean"), intro),
    failure.element, start, discrete, traversals.element, pad.element, variations.element, interpolation.element);

  /** The mean pictures of rows of z, {shape, data}. */
  async function decode(rows) {
    const answer = await post("sample", { model: app.model.reference, z: stack(rows), seed: 0, output: "mean", ...asked() });
    return unpack(answer.x);
  }

  /** The picture that everything starts from. */
  function begin(model, x, name) {
    failure.clear();
    paint(canvas, model, x, extent(model, x));
    canvas.setAttribute("aria-label", described(model, x));
    words.textContent = name;
  }

  /** Show the sections that are given, and hide the others. */
  function reveal(...sections) {
    for (const element of [discrete, traversals.element, pad.element, variations.element, interpolation.element]) {
      element.hidden = !sections.includes(element);
    }
  }

  async function draw() {
    const model = app.model;
    const taken = app.taken?.reference === model.reference ? app.taken : null;
    try {
      const chain = await model.chain();
      if (model !== app.model) return;
      intro.textContent = chain ? OF_PASSES : OF_NUMBERS;
      centre.hidden = !taken;
      centre.textContent = chain ? "Back to a draw of the model" : "Back to the prior's centre";
      await (chain ? drawChain(model, chain, taken) : drawLatents(model, taken));
    } catch (error) {
      fail(error);
    }
  }

  /** Draws take passes: z has as many numbers as x, and means little without its level. */
  async function drawChain(model, chain, taken) {
    const x = taken ? taken.x : row(unpack((await post("sample", { model: model.reference, seed: 0, ...asked() })).x), 0);
    if (model !== app.model) return;
    begin(model, x, taken ? taken.name : "Sample 0 of seed 0");
    // Their sliders first, so that nobody turns those of another model.
    const ways = [variations.show(model, chain, model.nearest(x)), interpolation.show(model, chain)];
    reveal(variations.element, interpolation.element);
    await Promise.all(ways);
  }

  async function drawLatents(model, taken) {
    const latents = await model.latents();
    if (model !== app.model) return;
    const z = taken ? taken.z : Float32Array.from(latents.centre);
    const x = row(await decode([z]), 0);
    if (model !== app.model) return;
    begin(model, x, taken ? taken.name : latents.values ? "z = 0" : "The centre of the prior: z at temperature 0.");
    if (latents.values) {
      reveal(discrete);
      return values.show(model, await decode(latents.values.map((value) => [value])), (i) => `z = ${i}`);
    }
    reveal(traversals.element, ...(latents.dim < 2 ? [] : [pad.element]), interpolation.element);
    await traversals.show(model, latents, z);
    pad.show(model, latents, z);
    return interpolation.show(model, null);
  }

  // None before it is known what the model has.
  reveal();
  return {
    show() {
      if (shownFor !== app.model) {
        shownFor = app.model;
        labelField.hidden = !app.model.labels;
        fill(label, (app.model.labels ?? []).map((name, i) => [i, name]), 0);
      }
      if (app.model.labels && app.taken?.reference === app.model.reference && app.taken.label !== null) label.value = String(app.taken.label);
      draw();
    },
  };
}
