// How many passes a draw takes: a number from 1 to T, hidden where draws take one.

import { field, h } from "./dom.js";
import { clamp } from "./numbers.js";

export class Steps {
  constructor(changed) {
    this.input = h("input", { type: "number", min: 1, step: 1, onchange: () => { this.value = this.value; changed(); } });
    this.element = field("Passes, num_steps", this.input, "fewer passes are faster, and another model");
    this.element.hidden = true;
    this.top = 1;
  }

  /** For another model: all of its passes at first. */
  fit(chain) {
    this.element.hidden = chain === null;
    this.top = chain?.top ?? 1;
    this.input.max = this.top;
    this.value = null;
  }

  /** The number to ask for; null for all passes, and where draws take one. */
  get value() {
    const steps = Math.floor(Number(this.input.value)) || this.top;
    return steps >= this.top ? null : clamp(steps, 1, this.top);
  }

  set value(steps) {
    this.input.value = steps ?? this.top;
  }
}
