// Score: a row of one's own, drawn, chosen or typed, and what the model says of it.

import { get, post } from "../parts/api.js";
import { pack, row, unpack } from "../parts/arrays.js";
import { announce, choice, field, fill, h, heading, select } from "../parts/dom.js";
import { Drawing } from "../parts/drawing.js";
import { Failure } from "../parts/failure.js";
import { Grid } from "../parts/grid.js";
import { intensities, looksInverted, open } from "../parts/imagefile.js";
import { latest } from "../parts/latest.js";
import { plain } from "../parts/numbers.js";
import { paint } from "../parts/picture.js";
import * as route from "../parts/route.js";
import { Steps } from "../parts/steps.js";
import { numbersOf, verdict } from "./verdict.js";

const SOURCES = [["draw", "Draw"], ["file", "A file"], ["held-out", "Held-out"], ["numbers", "Numbers"], ["sample", "Sampled"]];
const ANY = "any";
// Each draw takes an evaluation of the network, or one for every level.
const OF_ONE = { samples: 64, importance: [0, 64, 256, 1024], chosen: 256 };
const OF_PASSES = { samples: 16, importance: [0, 16, 64, 256], chosen: 16 };

export function build(panel, app) {
  const failure = new Failure();
  const source = choice("Score", SOURCES, "held-out", (kind) => { turn(kind); });
  const drawing = new Drawing((canvas) => score(model().quantize(intensities(canvas, model()))));
  const invert = h("input", { type: "checkbox", onchange: () => use() });
  const fileWords = h("p", { class: "caption" });
  const input = h("input", { type: "file", class: "unseen", accept: "image/png,image/jpeg,image/webp,image/gif,image/bmp",
    onchange: () => { if (input.files.length) take(input.files[0]); input.value = ""; } });
  const drop = h("label", { class: "drop" }, input, h("strong", {}, "Choose a picture"), h("span", {}, "or drop it here, or paste one"));
  const chosenFile = h("div", { class: "controls" }, drop, fileWords, h("label", { class: "check" }, invert, "Invert: the picture is dark on light"));
  const examples = new Grid("Held-out examples", (i) => example(i), { columns: 4 });
  const heldOut = h("div", { class: "controls" }, examples.element, h("small", {}, "Test rows: neither training nor early stopping has seen them."));
  const typed = h("textarea", { spellcheck: false, onchange: () => numbers() });
  const typedHelp = h("small");
  const entered = h("div", { class: "controls" }, h("label", { class: "field" }, h("span", {}, "Values"), typed, typedHelp));
  const preview = h("canvas", { role: "img", "aria-label": "The exact row that is scored" });
  const previewWords = h("p", { class: "caption" });
  const vary = h("button", { type: "button", hidden: true, onclick: () => explore() }, "Vary it in Explore");
  const samples = select([[1, "1"], [4, "4"], [16, "16"], [64, "64"]], 64, () => again());
  const importance = select([], 0, () => again());
  const steps = new Steps(() => again());
  const seed = h("input", { type: "text", inputmode: "numeric", value: "0", onchange: () => again() });
  const label = select([], ANY, () => again());
  const labelField = field("Class", label, "bounds log p(x|class)");
  const results = h("div", { class: "stage verdict" });
  const inputs = { draw: drawing.element, file: chosenFile, "held-out": heldOut, numbers: entered, sample: h("div") };
  let shownFor = null;
  let reference = null;
  let bitmap = null;
  let current = null;
  let chain = null;
  let visible = false;
  let drawsOf = null;
  const calibrations = new Map();
  const model = () => app.model;

  panel.append(heading("How well the model explains a row", "The evidence lower bound (ELBO) of one row, its parts, its error, and its place among rows that the model has never seen."),
    h("div", { class: "layout two" },
      h("div", { class: "controls first" }, source.element, Object.values(inputs),
        h("div", { class: "previewed" }, h("div", { class: "figure" }, preview), previewWords), vary,
        h("details", {}, h("summary", {}, "Draws, seed and class"), h("div", { class: "controls" },
          field("Draws of the ELBO", samples, "more draws, smaller error"), field("Draws of the IWAE", importance), steps.element, field("Seed", seed), labelField))),
      h("div", { class: "stage" }, failure.element, results)));

  const ask = latest(async ({ x, shown, levels, body, under }) => {
    const about = { model: shown.reference, ...(under === null ? {} : { label: under }) };
    const answer = await post("elbo", { ...about, ...body });
    const mean = shown.labels && under === null && !levels ? null : await reconstruction({ ...about, x: body.x, seed: body.seed }, levels);
    const calibration = await held(shown, answer);
    const stops = levels && await levels.stops(body.num_steps ?? null);
    // Something else may have been put in meanwhile, also what cannot be scored.
    if (shown !== app.model || x !== current) return;
    failure.clear();
    results.replaceChildren(...verdict(shown, x, answer, { mean, calibration, chain: levels, stops }));
    const { elbo } = numbersOf(answer);
    results.dataset.elbo = JSON.stringify(elbo);
    announce(`ELBO ${plain(elbo)} nats`);
  }, (error) => { results.replaceChildren(); failure.show(error); });

  /** E[x|z] at the most likely z, or at that with the least noise; null for a posterior without a most likely one. */
  async function reconstruction(asked, levels) {
    try {
      const found = await post("sample", { ...asked, ...(levels ? { level: 0 } : { temperature: 0 }), output: "mean" });
      return row(unpack(found.x), 0);
    } catch (error) {
      if (error.status === 422) return null;
      throw error;
    }
  }

  function explore() {
    app.taken = { reference: model().reference, x: current, name: "The scored row", label: given() };
    app.open("explore");
  }

  /** The scores of held-out rows that the answer was compared with; null if there are none. */
  function held(shown, answer) {
    if (answer.reference_num_samples === null) return null;
    const which = answer.conditional_on ? "&conditional_on=label" : "";
    const path = `${shown.path}/calibration?num_samples=${answer.reference_num_samples}${which}`;
    if (!calibrations.has(path)) calibrations.set(path, get(path).then((found) => unpack(found.scores)));
    return calibrations.get(path).catch((error) => { calibrations.delete(path); throw error; });
  }

  function score(x) {
    current = x;
    const shown = app.model;
    paint(preview, shown, x);
    const what = shown.image ? `${shown.width} × ${shown.height}${shown.channels === 3 ? " × 3" : ""}` : `${shown.size} numbers`;
    previewWords.textContent = `What is scored: ${what}${shown.discrete ? `, levels 0 to ${shown.top}` : ""}`;
    if (!/^\d{1,15}$/.test(seed.value.trim())) {
      failure.show(new Error("A seed is a whole number of at most 15 digits."));
      return;
    }
    vary.hidden = chain === null;
    ask({ x, shown, levels: chain, under: given(), body: {
      x: pack(x, [1, ...shown.shape]), seed: Number(seed.value), num_samples: Number(samples.value),
      num_importance_samples: Number(importance.value), ...(steps.value === null ? {} : { num_steps: steps.value }),
      include: ["reconstruction_map", ...(chain ? ["bound_map", "kl_per_level"] : [])],
    } });
  }

  /** The class that the row is scored under; null for all of them, or where there are none. */
  const given = () => (!model().labels || label.value === ANY ? null : Number(label.value));

  const again = () => { if (current) score(current); };

  function nothing(words) {
    current = null;
    vary.hidden = true;
    results.replaceChildren(h("p", { class: "caption" }, words));
    preview.width = preview.height = 1;
    previewWords.textContent = "";
  }

  function turn(kind) {
    route.note({ from: kind, example: kind === "held-out" ? route.read().params.get("example") : null });
    for (const [name, element] of Object.entries(inputs)) element.hidden = name !== kind;
    panel.querySelector(".previewed").hidden = false;
    failure.clear();
    if (kind === "held-out") example(Number(route.read().params.get("example") ?? 0));
    else if (kind === "file") (bitmap ? use() : nothing("Choose a picture: it is resized to the model's shape, and nothing of it leaves this page but the pixels shown."));
    else if (kind === "numbers") numbers();
    else if (kind === "sample") sampled();
    else score(model().quantize(intensities(drawing.canvas, model())));
  }

  function example(i) {
    if (!reference || i >= reference.x.shape[0]) return;
    examples.mark(i);
    route.note({ example: i });
    if (reference.label) label.value = String(reference.label.data[i]);
    score(model().nearest(row(reference.x, i)));
  }

  function sampled() {
    if (app.taken?.reference !== model().reference) return nothing("Choose a picture in Sample first.");
    if (app.taken.label !== null) label.value = String(app.taken.label);
    // A mean between two levels is no row of the data: the nearest level is.
    return score(model().nearest(app.taken.x));
  }

  function numbers() {
    const values = typed.value.split(/[\s,;]+/).filter(Boolean).map(Number);
    if (!values.length) return nothing(`Type or paste ${model().size} numbers.`);
    if (values.length !== model().size || !values.every(Number.isFinite)) {
      nothing("");
      return failure.show(new Error(`${values.length} values, ${values.filter((v) => !Number.isFinite(v)).length} of which are no numbers; the model needs ${model().size} numbers.`));
    }
    failure.clear();
    const x = model().rows(1);
    try {
      x.set(x instanceof BigInt64Array ? values.map(BigInt) : values);
    } catch {
      nothing("");
      return failure.show(new Error("This model needs whole numbers."));
    }
    if (x instanceof Uint8Array && values.some((value, i) => x[i] !== value)) {
      nothing("");
      return failure.show(new Error(`This model needs whole numbers from 0 to ${model().top}.`));
    }
    return score(x);
  }

  function use() {
    if (bitmap) score(model().quantize(intensities(bitmap, model(), invert.checked)));
  }

  async function take(file) {
    if (!shownFor) return;
    source.value = "file";
    bitmap = null;
    turn("file");
    try {
      const opened = await open(file);
      bitmap = opened.bitmap;
      invert.checked = looksInverted(bitmap);
      const tiny = bitmap.width * bitmap.height < 16 ? "; so few pixels make blocks of one colour" : "";
      fileWords.textContent = `${file.name || "pasted"}: ${opened.words}, made ${model().width} × ${model().height}${tiny}${invert.checked ? "; inverted, since its corners are light" : ""}`;
      use();
    } catch (error) {
      fileWords.textContent = "";
      nothing("");
      failure.show(error);
    }
  }

  for (const kind of ["dragover", "dragleave", "drop"]) {
    panel.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length && model()?.image) take(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("paste", (event) => {
    if (visible && model()?.image && event.clipboardData.files.length) take(event.clipboardData.files[0]);
  });

  async function adapt() {
    const shown = model();
    delete panel.dataset.model;
    [reference, chain] = await Promise.all([shown.heldOut(), shown.chain()]);
    if (shown !== model()) return;
    fitDraws(chain ? OF_PASSES : OF_ONE);
    steps.fit(chain);
    if (reference) examples.show(shown, reference.x, (i) => `Held-out example ${i}, ELBO ${plain(reference.elbo.data[i], 1)} nats`);
    source.offer([...(shown.image ? ["draw", "file"] : ["numbers"]), ...(reference ? ["held-out"] : []), "sample"]);
    labelField.hidden = !shown.labels;
    fill(label, [[ANY, "any: log p(x), over all classes"], ...(shown.labels ?? []).map((name, i) => [i, name])], ANY);
    if (shown.image) drawing.fit(shown);
    typed.value = reference ? Array.from(row(reference.x, 0), (value) => Number(value.toPrecision(6))).join(", ") : new Array(shown.size).fill(0).join(", ");
    typedHelp.textContent = `${shown.size} numbers in the data's units`;
    if (shownFor && shown.size !== shownFor.size) bitmap = null;
    shownFor = shown;
    panel.dataset.model = shown.reference;
  }

  function fitDraws(kind) {
    if (kind === drawsOf) return;
    drawsOf = kind;
    samples.value = kind.samples;
    fill(importance, kind.importance.map((n) => [n, n ? n.toLocaleString("en") : "none"]), kind.chosen);
  }

  async function show(params) {
    visible = true;
    try {
      const before = source.value;
      // Not before the model's own inputs are there.
      panel.inert = shownFor !== model();
      if (shownFor !== model()) await adapt();
      panel.inert = false;
      const first = reference ? "held-out" : model().image ? "draw" : "numbers";
      const wanted = params.get("from") ?? before;
      const hidden = [...source.element.querySelectorAll("input")].find((radio) => radio.value === wanted)?.closest("label").hidden ?? true;
      source.value = hidden ? first : wanted;
      turn(source.value);
    } catch (error) {
      failure.show(error);
    }
  }

  return { show, hide() { visible = false; } };
}
