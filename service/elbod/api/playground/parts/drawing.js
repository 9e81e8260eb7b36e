// A canvas to draw on, light on black, as large as a finger needs whatever the model's size.

import { choice, h, slider } from "./dom.js";

const LONG_SIDE = 336;

/** `changed(canvas)` is called after every stroke. */
export class Drawing {
  constructor(changed) {
    this.changed = changed;
    this.canvas = h("canvas", { class: "drawing", role: "img", "aria-label": "Canvas to draw on with a pointer" });
    this.brush = slider("Brush", { min: 0.5, max: 4, step: 0.1, value: 1.2, text: (t) => `${t.toFixed(1)} px` }, () => {});
    this.colour = h("input", { type: "color", value: "#ffffff" });
    this.colourField = h("label", { class: "field" }, h("span", {}, "Colour"), this.colour);
    this.tool = choice("Tool", [["draw", "Draw"], ["erase", "Erase"]], "draw", () => {});
    this.tool.element.querySelector(".segments").classList.add("across");
    this.element = h("div", { class: "controls" }, h("div", { class: "figure" }, this.canvas), this.tool.element, this.brush.element,
      this.colourField, h("button", { type: "button", onclick: () => { this.clear(); changed(this.canvas); } }, "Clear"));
    this.#listen();
  }

  /** Empty, in the proportions of a model. */
  fit(model) {
    const scale = LONG_SIDE / Math.max(model.width, model.height);
    this.pixel = scale;
    this.canvas.width = Math.round(model.width * scale);
    this.canvas.height = Math.round(model.height * scale);
    this.colourField.hidden = model.channels !== 3;
    this.clear();
  }

  clear() {
    const context = this.canvas.getContext("2d");
    context.fillStyle = "black";
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #listen() {
    let last = null;
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * this.canvas.width, ((event.clientY - box.top) / box.height) * this.canvas.height];
    };
    const stroke = (event) => {
      const context = this.canvas.getContext("2d");
      const next = place(event);
      context.lineCap = context.lineJoin = "round";
      context.lineWidth = this.brush.value * this.pixel;
      context.strokeStyle = this.tool.value === "erase" ? "black" : this.colourField.hidden ? "white" : this.colour.value;
      context.beginPath();
      context.moveTo(...last);
      context.lineTo(...next);
      context.stroke();
      last = next;
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.canvas.setPointerCapture(event.pointerId);
      last = place(event);
      stroke(event);
    });
    this.canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
    const end = () => { if (last) { last = null; this.changed(this.canvas); } };
    this.canvas.addEventListener("pointerup", end);
    this.canvas.addEventListener("pointercancel", end);
  }
}
