// What went wrong, next to where it did.

import { h } from "./dom.js";

/** A line that is empty until something fails. */
export class Failure {
  constructor() {
    this.element = h("p", { class: "problem", role: "alert", hidden: true });
  }

  /** Say what went wrong; a missing answer and a missing key are said above the areas. */
  show(error) {
    const elsewhere = error.status === 0 || error.status === 401;
    this.element.textContent = elsewhere ? "" : error.title && error.status ? `${error.title}: ${error.message}` : error.message;
    this.element.hidden = elsewhere;
  }

  clear() {
    this.element.hidden = true;
    this.element.textContent = "";
  }
}
