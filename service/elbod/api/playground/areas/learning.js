// Watching it learn: the same seed under every version, followed while a worker publishes.

import { get } from "../parts/api.js";
import { unpack } from "../parts/arrays.js";
import { field, h, heading, slider } from "../parts/dom.js";
import { Grid } from "../parts/grid.js";
import { latest } from "../parts/latest.js";
import { Model, load } from "../parts/model.js";
import { nats, plain } from "../parts/numbers.js";
import { lines } from "../parts/plots.js";

const PICTURES = 36;
const MOST_PLOTTED = 80;

export class Learning {
  constructor(fail) {
    this.versions = new Map();
    this.seed = h("input", { type: "text", inputmode: "numeric", value: "7", onchange: () => this.ask(this.#version()) });
    this.follow = h("input", { type: "checkbox" });
    this.follow.checked = true;
    this.scrub = slider("Version", { min: 1, max: 1, step: 1, value: 1, text: (i) => String(this.entry?.versions[i - 1] ?? "") }, () => {
      this.follow.checked = this.#version() === this.entry.versions.at(-1);
      this.ask(this.#version());
    });
    this.grid = new Grid("Samples of this version", () => {});
    this.words = h("p", { class: "caption", role: "status" });
    this.plot = h("div");
    this.element = h("section", { class: "section" },
      heading("Watch it learn", "The same seed under each published version. While a worker publishes, new versions appear by themselves."),
      h("div", { class: "layout two" }, h("div", { class: "controls first" }, this.scrub.element,
        h("label", { class: "check" }, this.follow, "Follow the newest version"), field("Seed", this.seed), this.plot),
      h("div", { class: "stage" }, this.grid.element, this.words)));
    this.ask = latest((version) => this.#show(version), fail);
  }

  /** The model's entry, new or again; the newest version is shown if it is followed. */
  update(entry) {
    const another = this.entry?.name !== entry.name;
    const known = this.entry?.versions.at(-1);
    const before = another ? null : this.#version();
    this.entry = entry;
    if (another) this.versions.clear();
    this.scrub.range(1, entry.versions.length, 1);
    const newest = entry.versions.at(-1);
    const wanted = this.follow.checked || !entry.versions.includes(before) ? newest : before;
    this.scrub.value = entry.versions.indexOf(wanted) + 1;
    if (another || known !== newest || wanted !== before) {
      this.ask(wanted);
      this.#history();
    }
  }

  #version() {
    return this.entry.versions[this.scrub.value - 1];
  }

  async #model(version) {
    const { name } = this.entry;
    if (!this.versions.has(version)) this.versions.set(version, await load(name, version));
    return this.versions.get(version);
  }

  async #show(version) {
    const { name } = this.entry;
    const model = await this.#model(version);
    const query = new URLSearchParams({ model: `${name}@${version}`, seed: this.seed.value.trim(), num_samples: PICTURES, output: "mean", encoding: "base64" });
    if (model.labels) query.set("label", 0);
    if (await model.chain()) query.set("level", 0);
    const answer = await get(`sample?${query}`);
    if (name !== this.entry.name) return;
    this.grid.show(model, unpack(answer.x), (i) => `Sample ${i} of version ${version}`);
    const { elbo, standard_error: error } = model.manifest.metrics;
    this.words.textContent = `${name}@${version}, seed ${answer.seed}${elbo === undefined ? "" : `, held-out ELBO ${nats(elbo, error)}`}`;
    this.grid.element.dataset.version = version;
    this.#mark(version);
  }

  /** The held-out bound of the versions, read one after the other. */
  async #history() {
    const { name, versions } = this.entry;
    const step = Math.ceil(versions.length / MOST_PLOTTED);
    for (const version of versions.filter((_, i) => (versions.length - 1 - i) % step === 0)) {
      if (this.entry.name !== name || this.element.closest("[hidden]")) return;
      try {
        await this.#model(version);
      } catch (error) {
        // Retired since the list was made: the next list leaves it out.
        if (error.status !== 404) return;
      }
    }
    if (this.entry.name === name) this.#mark(this.#version());
  }

  #mark(version) {
    const known = [...this.versions.entries()].filter(([number, model]) => model instanceof Model && this.entry.versions.includes(number))
      .map(([number, model]) => [number, model.manifest.metrics.elbo]).filter(([, elbo]) => elbo !== undefined).sort(([a], [b]) => a - b);
    if (known.length < 2) return this.plot.replaceChildren();
    const here = known.find(([number]) => number === version)?.[1];
    const label = `Held-out ELBO by version, from ${plain(known[0][1], 1)} to ${plain(known.at(-1)[1], 1)} nats`;
    const values = known.map(([, elbo]) => elbo);
    const series = [{ points: known }];
    if (here !== undefined) series.push({ points: [[version, Math.min(...values)], [version, Math.max(...values)]], kind: 1 });
    return this.plot.replaceChildren(lines(series, { label, width: 300, height: 190, xLabel: "version", unit: "held-out ELBO, nats" }));
  }
}
