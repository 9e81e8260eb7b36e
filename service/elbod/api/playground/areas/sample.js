// Sample: pictures from the prior, their seeds, and the z of each.

import { picture, post } from "../parts/api.js";
import { row, unpack } from "../parts/arrays.js";
import { announce, choice, field, fill, h, heading, s, select, slider } from "../parts/dom.js";
import { Failure } from "../parts/failure.js";
import { Grid } from "../parts/grid.js";
import { latest } from "../parts/latest.js";
import { described, extent, paint } from "../parts/picture.js";
import { latentBars } from "../parts/latent.js";
import * as route from "../parts/route.js";
import { Process } from "./process.js";
import { Strip } from "./strip.js";

const COUNTS = [16, 36, 64, 100, 144];
const MOST_SEED = Number.MAX_SAFE_INTEGER;
const dice = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;

export function build(panel, app) {
  const failure = new Failure();
  const seed = h("input", { type: "text", inputmode: "numeric", value: "7", onchange: () => ask(), "aria-describedby": "seed-help" });
  const first = h("input", { type: "number", min: 0, step: 1, value: "0", onchange: () => ask() });
  const count = select(COUNTS.map((n) => [n, `${n} pictures`]), 64, () => ask());
  const temperature = slider("Temperature", { min: 0, max: 2, step: 0.05, value: 1, text: (t) => t.toFixed(2) }, () => ask());
  const temperatureField = h("div", { class: "controls" }, temperature.element, h("small", { class: "under" }, "scales the randomness of z; only 1 draws from p(x)"));
  const process = new Process(() => ask());
  const strip = new Strip((error) => failure.show(error));
  const output = choice("Show", [["sample", "a draw x ~ p(x|z)"], ["mean", "the mean E[x|z]"]], "sample", () => ask());
  const label = select([], "each", () => ask());
  const labelField = field("Class", label);
  const grid = new Grid("Samples", (i) => pick(i));
  const legend = h("p", { class: "caption" });
  const big = h("canvas", { role: "img" });
  const about = h("p", { class: "caption" });
  const bars = h("div", { class: "bars" });
  const shared = h("input", { type: "text", readonly: true, "aria-label": "Link to these pictures", onfocus: (event) => event.target.select() });
  const picked = h("aside", { class: "card picked", "aria-label": "The chosen picture", hidden: true }, h("h3", {}, "Chosen picture"),
    h("div", { class: "figure" }, big), about, bars, h("div", { class: "actions column" },
      h("button", { type: "button", onclick: () => app.open("explore") }, "Explore around it"),
      h("button", { type: "button", onclick: () => app.open("score", { from: "sample" }) }, "Score it"),
      h("div", { class: "pair" }, ["a", "b"].map((slot) => h("button", {
        type: "button", onclick: () => { app.slots[slot] = app.taken; announce(`Kept as end ${slot.toUpperCase()} of an interpolation`); },
      }, `Keep as end ${slot.toUpperCase()}`)))));
  let shown = null;
  let modelOf = null;
  let chain = null;
  let wantedPick = null;

  panel.append(heading("What the model imagines", "Each picture is one draw: z from the prior p(z), then x from p(x|z). The same seed gives the same pictures on every machine of one fingerprint."),
    h("div", { class: "layout" },
      h("form", { class: "controls", onsubmit: (event) => { event.preventDefault(); ask(); } },
        h("div", { class: "field" }, h("label", { for: "seed" }, "Seed"), h("div", { class: "joined" }, seed,
          h("button", { type: "button", title: "Another seed", "aria-label": "Another seed", onclick: () => { seed.value = String(dice()); ask(); } }, die())),
          h("small", { id: "seed-help" }, "decides every picture")),
        field("First index", first, "pictures index, index + 1, … of the seed"), field("Number", count), labelField,
        temperatureField, process.element, output.element,
        h("div", { class: "actions column" },
          h("button", { type: "button", class: "primary", onclick: () => download() }, "Download PNG"),
          h("button", { type: "button", onclick: (event) => copy(event.target) }, "Copy link")), shared),
      h("div", { class: "stage" }, failure.element, grid.element, legend, process.words), picked), strip.element);
  seed.id = "seed";

  function wish() {
    const number = Number(seed.value.trim());
    if (!/^\d+$/.test(seed.value.trim()) || number > MOST_SEED) throw new Error(`A seed is a whole number from 0 to ${MOST_SEED}.`);
    const n = Number(count.value);
    const fields = {
      model: app.model.reference, seed: number, first_index: Math.max(0, Math.floor(Number(first.value)) || 0), num_samples: n,
      output: output.value, ...app.model.label(label.value, n), ...process.fields(label.value !== "none"),
    };
    // The mean at the end of the way: elsewhere it is of a picture that is not decided yet.
    if (chain) return output.value === "mean" ? { ...fields, level: 0 } : fields;
    return temperature.value === 1 ? fields : { ...fields, temperature: temperature.value };
  }

  const fetchLatest = latest(async (fields) => {
    const model = app.model;
    const answer = await post("sample", fields);
    if (model !== app.model) return;
    failure.clear();
    shown = { fields, model, x: unpack(answer.x), z: unpack(answer.z) };
    grid.show(model, shown.x, (i) => nameOf(i));
    legend.textContent = `${answer.model.name}@${answer.model.version}, seed ${answer.seed}, indices ${answer.first_index} to ${answer.first_index + shown.x.shape[0] - 1}${answer.reproducible ? "" : "; this model's bytes depend on what shares its batch"}`;
    const index = wantedPick === null ? -1 : wantedPick - answer.first_index;
    process.say(answer.process);
    if (index >= 0 && index < shown.x.shape[0]) pick(index);
    else {
      picked.hidden = true;
      follow(0);
    }
    remember();
    announce(`${shown.x.shape[0]} samples of ${answer.model.name} version ${answer.model.version}, seed ${answer.seed}`);
  }, (error) => failure.show(error));

  function ask() {
    try {
      const fields = wish();
      // Before the answer: whoever comes back, or a server that does, finds what was wanted.
      route.note(values(fields));
      fetchLatest(fields);
    } catch (error) {
      failure.show(error);
    }
  }

  function nameOf(i) {
    const which = labelOf(i) === null ? "" : `, ${app.model.labels[labelOf(i)]}`;
    return `Sample ${shown.fields.first_index + i}${which}`;
  }

  /** The class of sample i; null where none was named. */
  function labelOf(i) {
    const given = shown.fields.label;
    return given === undefined ? null : Array.isArray(given) ? given[i] : given;
  }

  /** Show how sample i came about. */
  function follow(i) {
    const { model, fields } = shown;
    const given = labelOf(i) === null ? {} : { label: labelOf(i) };
    strip.show(model, chain, { ...fields, first_index: fields.first_index + i, num_samples: 1, output: "sample", ...given }, nameOf(i));
  }

  function pick(i) {
    const x = row(shown.x, i);
    wantedPick = shown.fields.first_index + i;
    app.taken = {
      reference: shown.model.reference, z: Float32Array.from(row(shown.z, i)), x: x.slice(), name: `${nameOf(i)} of seed ${shown.fields.seed}`,
      label: labelOf(i),
    };
    grid.mark(i);
    paint(big, shown.model, x, extent(shown.model, shown.x.data));
    big.setAttribute("aria-label", described(shown.model, x));
    about.textContent = app.taken.name;
    bars.replaceChildren(...(chain ? [] : [latentBars(app.taken.z)]));
    follow(i);
    picked.hidden = false;
    remember();
    announce(`${app.taken.name} is chosen`);
  }

  function values({ seed: number, first_index: index, num_samples: n, output: kind, temperature: t = null, num_steps: steps = null, sampler = null, guidance = null }) {
    return { seed: number, n, first: index || null, t, steps, sampler, guidance, output: kind === "mean" ? kind : null,
      label: app.model.labels ? label.value : null, pick: wantedPick };
  }

  function remember() {
    route.note(values(shown.fields));
    shared.value = route.link("sample", { model: shown.model.reference, ...values(shown.fields) });
  }

  async function copy(button) {
    shared.select();
    try {
      await navigator.clipboard.writeText(shared.value);
      button.textContent = "Link copied";
      announce("Link copied");
      setTimeout(() => { button.textContent = "Copy link"; }, 2000);
    } catch {
      announce("The link is selected: copy it with the keyboard");
    }
  }

  async function download() {
    if (!shown) return;
    const { model, fields } = shown;
    try {
      const blob = model.image ? await picture(fields) : await drawn();
      const url = URL.createObjectURL(blob);
      h("a", { href: url, download: `${model.name}-${model.version}-seed-${fields.seed}.png` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10_000);
    } catch (error) {
      failure.show(error);
    }
  }

  /** Rows that are no images have no picture on the server: the page's own. */
  function drawn() {
    const tiles = [...grid.element.querySelectorAll("canvas")];
    const [width, height] = [tiles[0].width + 4, tiles[0].height + 4];
    const sheet = h("canvas", { width: width * grid.columns, height: height * Math.ceil(tiles.length / grid.columns) });
    const context = sheet.getContext("2d");
    tiles.forEach((tile, i) => context.drawImage(tile, (i % grid.columns) * width, Math.floor(i / grid.columns) * height));
    return new Promise((done) => { sheet.toBlob(done, "image/png"); });
  }

  async function show(params) {
    const model = app.model;
    try {
      const levels = await model.chain();
      // Another model was chosen, or another area, whose address this is now.
      if (model !== app.model || panel.hidden) return;
      chain = levels;
      adapt(params);
      ask();
    } catch (error) {
      failure.show(error);
    }
  }

  /** To the model, and to what a link says. */
  function adapt(params) {
    if (modelOf !== app.model) {
      if (modelOf?.name !== app.model.name) wantedPick = null;
      modelOf = app.model;
      temperatureField.hidden = chain !== null;
      process.fit(chain);
      labelField.hidden = !app.model.labels;
      const none = chain?.nullLabel ? [["none", "none: the null label"]] : [];
      fill(label, [["each", "each in turn"], ...none, ...(app.model.labels ?? []).map((name, i) => [i, name])], params.get("label") ?? label.value);
    }
    if (params.has("seed")) {
      // A whole link: what it leaves out has its usual value.
      seed.value = params.get("seed");
      first.value = params.get("first") ?? "0";
      temperature.value = params.get("t") ?? "1";
      process.read(params);
      output.value = params.get("output") === "mean" ? "mean" : "sample";
      wantedPick = null;
    }
    if (params.has("pick")) wantedPick = Number(params.get("pick"));
    if (COUNTS.includes(Number(params.get("n")))) count.value = params.get("n");
  }

  return { show };
}

function die() {
  const dots = [[8, 8], [16, 16], [8, 16], [16, 8], [12, 12]];
  return s("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "die" },
    s("rect", { x: 3, y: 3, width: 18, height: 18, rx: 4 }), dots.map(([cx, cy]) => s("circle", { cx, cy, r: 1.6 })));
}
