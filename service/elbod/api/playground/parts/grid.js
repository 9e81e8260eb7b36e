// Pictures in rows, each a button: one tab stop, arrow keys inside.

import { row } from "./arrays.js";
import { h } from "./dom.js";
import { extent, paint } from "./picture.js";

/** A grid of pictures; `columns` null lets it be as square as possible. `picked(i)` is called with the chosen one. */
export class Grid {
  constructor(label, picked, { columns = null } = {}) {
    this.picked = picked;
    this.fixed = columns;
    this.columns = 1;
    this.element = h("div", { class: "grid", role: "group", "aria-label": label, onkeydown: (event) => this.#move(event) });
  }

  /** Show the rows of x; the same number of them reuses what is there, so that a refresh does not flicker. */
  show(model, x, name) {
    const count = x.shape[0];
    const buttons = this.element.children;
    while (buttons.length > count) buttons[count].remove();
    while (buttons.length < count) this.element.append(this.#button(buttons.length));
    this.columns = this.fixed ?? Math.ceil(Math.sqrt(count));
    this.element.style.setProperty("--columns", this.columns);
    this.element.classList.toggle("charts", !model.image);
    const range = extent(model, x.data);
    for (let i = 0; i < count; i += 1) {
      paint(buttons[i].firstChild, model, row(x, i), range);
      buttons[i].setAttribute("aria-label", name(i));
      buttons[i].tabIndex = i === 0 ? 0 : -1;
    }
    this.mark(null);
  }

  /** Show which one is chosen. */
  mark(index) {
    [...this.element.children].forEach((button, i) => {
      button.setAttribute("aria-pressed", String(i === index));
      if (index !== null) button.tabIndex = i === index ? 0 : -1;
    });
  }

  /** The canvas of row i. */
  canvas(i) {
    return this.element.children[i].firstChild;
  }

  #button(i) {
    return h("button", { type: "button", class: "tile", "aria-pressed": "false", onclick: () => this.picked(i) }, h("canvas"));
  }

  #move(event) {
    const all = [...this.element.children];
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
    const here = all.indexOf(document.activeElement);
    const place = { Home: 0, End: all.length - 1 }[event.key] ?? here + (steps[event.key] ?? NaN);
    if (here < 0 || !(place >= 0 && place < all.length)) return;
    event.preventDefault();
    all[here].tabIndex = -1;
    all[place].tabIndex = 0;
    all[place].focus();
  }
}
