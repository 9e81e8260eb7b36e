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

export function build(panel, app) {
  const failure = new Failure();
  const fail = (error) => failure.show(error);
  const canvas = h("canvas", { role: "img" });
  const words = h("p", { class: "caption" });
  const label = select([], 0, () => draw());
  const labelField = field("Class", label);
  const centre = h("button", { type: "button", onclick: () => { app.taken = null; draw(); } }, "Back to the prior's centre");
  const start = h("section", { class: "start" }, h("div", { class: "figure small" }, canvas),
    h("div", { class: "controls" }, h("h3", {}, "Starting point"), words, labelField, h("div", { class: "actions" }, centre,
      h("button", { type: "button", onclick: () => app.open("sample") }, "Choose one in Sample"))));
  const about = { decode, begin: (z, name) => { app.taken = { reference: app.model.reference, z, name, label: chosenLabel() }; draw(); }, fail };
  const traversals = new Traversals(about);
  const pad = new Pad(about);
  const interpolation = new Interpolation(app, about);
  const values = new Grid("Every value of z", () => {});
  const discrete = h("section", { class: "section" }, heading("Every value of z", "z is one of a few numbers here: each has one mean picture, and there is nothing in between."), values.element);
  let shownFor = null;

  panel.append(heading("What the latents mean", "Each number of z is turned while the others stay, and the mean picture E[x|z] is decoded at every step."),
    failure.element, start, discrete, traversals.element, pad.element, interpolation.element);

  const chosenLabel = () => (app.model.labels ? Number(label.value) : null);

  /** The mean pictures of rows of z, {shape, data}. */
  async function decode(rows, given = chosenLabel(), options = {}) {
    const answer = await post("sample", {
      model: app.model.reference, z: stack(rows), seed: 0, output: "mean", ...(given === null ? {} : { label: given }),
    }, options);
    return unpack(answer.x);
  }

  async function draw() {
    const model = app.model;
    try {
      const latents = await model.latents();
      if (model !== app.model) return;
      const taken = app.taken?.reference === model.reference ? app.taken : null;
      const z = taken ? taken.z : Float32Array.from(latents.centre);
      const x = row(await decode([z]), 0);
      if (model !== app.model) return;
      failure.clear();
      paint(canvas, model, x, extent(model, x));
      canvas.setAttribute("aria-label", described(model, x));
      words.textContent = taken ? taken.name : latents.values ? "z = 0" : "The centre of the prior: z at temperature 0.";
      centre.hidden = !taken;
      const continuous = latents.values === null;
      discrete.hidden = continuous;
      traversals.element.hidden = interpolation.element.hidden = !continuous;
      pad.element.hidden = !continuous || latents.dim < 2;
      if (!continuous) return values.show(model, await decode(latents.values.map((value) => [value])), (i) => `z = ${i}`);
      await traversals.show(model, latents, z);
      pad.show(model, latents, z);
      await interpolation.show(model, latents);
    } catch (error) {
      fail(error);
    }
  }

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
