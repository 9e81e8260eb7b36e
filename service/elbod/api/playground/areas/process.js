// How samples are drawn where draws take passes, and whether a bound of what was drawn exists.

import { choice, h, slider } from "../parts/dom.js";
import { Steps } from "../parts/steps.js";

const SAMPLERS = [["ancestral", "ancestral: noise at each pass"], ["ddim", "ddim: no noise on the way"]];

export class Process {
  constructor(changed) {
    this.steps = new Steps(changed);
    this.sampler = choice("Sampler", SAMPLERS, "ancestral", changed);
    this.guidance = slider("Guidance", { min: 0, max: 5, step: 0.5, value: 0, text: String }, changed);
    this.guided = h("div", { class: "controls" }, this.guidance.element, h("small", { class: "under" }, "further towards the class than its model draws"));
    this.element = h("div", { class: "controls", hidden: true }, this.steps.element, this.sampler.element, this.guided);
    this.words = h("p", { class: "process", hidden: true });
    this.chain = null;
  }

  /** For another model; `chain` is null where draws take one pass. */
  fit(chain) {
    this.chain = chain;
    this.element.hidden = chain === null;
    this.words.hidden = true;
    this.guided.hidden = !chain?.nullLabel;
    this.steps.fit(chain);
  }

  /** What a link says of it; what it leaves out has its usual value. */
  read(params) {
    this.steps.value = params.get("steps");
    this.sampler.value = params.get("sampler") === "ddim" ? "ddim" : "ancestral";
    this.guidance.value = params.get("guidance") ?? "0";
  }

  /** What a request says of it, `labelled` if it names classes: nothing that is usual. */
  fields(labelled) {
    if (this.chain === null) return {};
    return {
      ...(this.steps.value === null ? {} : { num_steps: this.steps.value }),
      ...(this.sampler.value === "ddim" ? { sampler: "ddim" } : {}),
      ...(labelled && this.chain.nullLabel && this.guidance.value > 0 ? { guidance: this.guidance.value } : {}),
    };
  }

  /** Say what the `process` of an answer means. */
  say(process) {
    this.words.hidden = process === null;
    if (process === null) return;
    this.words.textContent = process.scored
      ? `These are draws of the model itself: /elbo with num_steps=${process.num_steps} bounds exactly this model.`
      : "These come from another distribution than the model's own draws: no ELBO of them exists.";
  }
}
