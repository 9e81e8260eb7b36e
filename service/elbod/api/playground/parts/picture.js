// One row of x on a canvas: pixels of images, bars or a line of everything else.

import { clamp } from "./numbers.js";

const MOST_BARS = 48;
const CHART = { width: 160, height: 110 };

/** The least and the greatest value of rows that are shown next to each other. */
export function extent(model, data) {
  if (model.image) return [0, model.top];
  let [low, high] = [0, 0];
  for (const value of data) {
    low = Math.min(low, Number(value));
    high = Math.max(high, Number(value));
  }
  return [low, high || 1];
}

/** Draw x, one row in data units, on a canvas of its own size. */
export function paint(canvas, model, x, range = extent(model, x)) {
  if (model.image) paintImage(canvas, model, x);
  else paintVector(canvas, x, range);
}

function resize(canvas, width, height) {
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
}

function paintImage(canvas, model, x) {
  const { width, height, channels } = model;
  resize(canvas, width, height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const area = width * height;
  for (let i = 0; i < area; i += 1) {
    for (let c = 0; c < 3; c += 1) {
      pixels.data[4 * i + c] = clamp((Number(x[(channels === 3 ? c : 0) * area + i]) / model.top) * 255, 0, 255);
    }
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  canvas.classList.add("pixels");
}

function paintVector(canvas, x, [low, high]) {
  const scale = Math.min(3, Math.ceil(devicePixelRatio));
  resize(canvas, CHART.width * scale, CHART.height * scale);
  const context = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.fillStyle = style.getPropertyValue("--map-zero");
  context.fillRect(0, 0, CHART.width, CHART.height);
  const inset = 8;
  const y = (value) => inset + ((high - value) / (high - low || 1)) * (CHART.height - 2 * inset);
  const step = (CHART.width - 2 * inset) / x.length;
  context.strokeStyle = style.getPropertyValue("--chart-rule");
  context.beginPath();
  context.moveTo(inset, y(0));
  context.lineTo(CHART.width - inset, y(0));
  context.stroke();
  const ink = style.getPropertyValue("--chart-bar");
  context.fillStyle = ink;
  context.strokeStyle = ink;
  if (x.length <= MOST_BARS) {
    x.forEach((value, i) => {
      const top = y(Math.max(Number(value), 0));
      context.fillRect(inset + i * step + step * 0.12, top, step * 0.76, Math.max(1, y(Math.min(Number(value), 0)) - top));
    });
    return;
  }
  context.lineWidth = 1.5;
  context.beginPath();
  x.forEach((value, i) => context.lineTo(inset + (i + 0.5) * step, y(Number(value))));
  context.stroke();
}

/** A number for each element of an event as a colour: `low` ... 0 towards one hue, 0 ... `high` towards another. */
export function paintMap(canvas, model, values, low, high) {
  const { width, height, channels } = model;
  resize(canvas, width, height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  const area = width * height;
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
  const [zero, below, above] = ["--map-zero", "--map-below", "--map-above"].map(colour);
  for (let i = 0; i < area; i += 1) {
    let total = 0;
    for (let c = 0; c < channels; c += 1) total += values[c * area + i];
    const share = total < 0 ? clamp(total / low, 0, 1) : clamp(total / (high || 1), 0, 1);
    const end = total < 0 ? below : above;
    for (let c = 0; c < 3; c += 1) pixels.data[4 * i + c] = zero[c] + (end[c] - zero[c]) * Math.sqrt(share);
    pixels.data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  canvas.classList.add("pixels");
}

/** The first values of a row, for those who cannot see it. */
export function described(model, x) {
  if (model.image) return `${model.width} by ${model.height} picture`;
  const values = Array.from(x.slice(0, 6), (value) => Number(value).toFixed(2)).join(", ");
  return `${x.length} numbers: ${values}${x.length > 6 ? ", …" : ""}`;
}
