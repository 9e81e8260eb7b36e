// Small plots in SVG: lines, a histogram with a marker, a waterfall. Each has its numbers in its label.

import { s } from "./dom.js";
import { plain, tickText, ticks } from "./numbers.js";

function frame(width, height, label) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "plot" });
}

const text = (x, y, words, kind = "tick", anchor = "middle") =>
  s("text", { x, y, class: kind, "text-anchor": anchor }, words);

/**
 * Lines over a common axis. `series` are {name, points: [[x, y], ...], band: [[x, low, high], ...]}; points that are
 * not finite are gaps. `since` is where the axis begins, `zero` whether it reaches down to 0, `dots` marks each point.
 */
export function lines(series, { label, width = 560, height = 220, unit = "", xLabel = "", zero = false, since = null, dots = false }) {
  const svg = frame(width, height, label);
  const finite = series.flatMap(({ points, band = [] }) => [
    ...points, ...band.flatMap(([x, low, high]) => [[x, low], [x, high]])]).filter(([, y]) => Number.isFinite(y));
  if (!finite.length) finite.push([0, 0]);
  const [xs, ys] = [0, 1].map((i) => finite.map((point) => point[i]));
  const [x0, x1] = [since ?? Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [zero ? 0 : Math.min(...ys), Math.max(...ys)];
  if (y0 === y1) y1 = y0 + (Math.abs(y0) * 0.1 || 1);
  const inset = { left: 52, right: 12, top: unit ? 24 : 10, bottom: xLabel ? 34 : 12 };
  const px = (x) => inset.left + ((x - x0) / (x1 - x0 || 1)) * (width - inset.left - inset.right);
  const py = (y) => height - inset.bottom - ((y - y0) / (y1 - y0)) * (height - inset.top - inset.bottom);
  const marks = ticks(y0, y1, height < 160 ? 2 : 4);
  if (zero && marks.at(-1) < y1) marks.push(y1 = marks.length * (marks[1] ?? y1));
  for (const tick of marks) {
    svg.append(s("line", { x1: inset.left, x2: width - inset.right, y1: py(tick), y2: py(tick), class: "rule" }),
      text(inset.left - 8, py(tick) + 4, tickText(tick, marks), "tick", "end"));
  }
  if (xLabel) {
    const below = ticks(x0, x1, 5);
    for (const tick of below) svg.append(text(px(tick), height - 18, tickText(tick, below)));
    svg.append(text((inset.left + width - inset.right) / 2, height - 3, xLabel, "axis"));
  }
  if (unit) svg.append(text(inset.left - 8, 11, unit, "axis", unit.length < 6 ? "end" : "start"));
  series.forEach(({ points, band, kind }, i) => {
    const colour = `series-${kind ?? i}`;
    if (band) {
      const there = band.filter((point) => point.every(Number.isFinite));
      const edge = [...there.map(([x, , high]) => [x, high]), ...there.reverse().map(([x, low]) => [x, low])];
      svg.append(s("polygon", { points: edge.map(([x, y]) => `${px(x)},${py(y)}`).join(" "), class: `band ${colour}` }));
    }
    let path = "";
    let open = false;
    for (const [x, y] of points) {
      if (Number.isFinite(y)) path += `${open ? "L" : "M"}${px(x).toFixed(1)} ${py(y).toFixed(1)}`;
      open = Number.isFinite(y);
    }
    svg.append(s("path", { d: path, class: `line ${colour}` }));
    if (dots) svg.append(...points.map(([x, y]) => s("circle", { cx: px(x), cy: py(y), r: 3, class: `dot ${colour}` })));
  });
  return svg;
}

/** Counts of ascending values in equal bins, with a marker where one value lies. */
export function histogram(values, marker, { label, caption, width = 380, height = 190, bins = 28 }) {
  const svg = frame(width, height, label);
  const [low, high] = [Math.min(values[0], marker), Math.max(values[values.length - 1], marker)];
  const counts = new Array(bins).fill(0);
  const bin = (value) => Math.min(bins - 1, Math.floor(((value - low) / (high - low || 1)) * bins));
  for (const value of values) counts[bin(value)] += 1;
  const inset = { left: 12, right: 12, top: 30, bottom: 34 };
  const px = (value) => inset.left + ((value - low) / (high - low || 1)) * (width - inset.left - inset.right);
  const floor = height - inset.bottom;
  const wide = (width - inset.left - inset.right) / bins;
  const most = Math.max(...counts);
  counts.forEach((count, i) => {
    const tall = (count / most) * (floor - inset.top);
    if (count) svg.append(s("rect", { x: inset.left + i * wide + 0.5, y: floor - tall, width: wide - 1, height: tall, class: "bar" }));
  });
  svg.append(s("line", { x1: inset.left, x2: width - inset.right, y1: floor, y2: floor, class: "base" }));
  const marks = ticks(low, high, 5);
  for (const tick of marks) svg.append(text(px(tick), floor + 15, tickText(tick, marks)));
  svg.append(text(width / 2, height - 3, "ELBO, nats", "axis"));
  const anchor = px(marker) < 90 ? "start" : px(marker) > width - 90 ? "end" : "middle";
  svg.append(s("line", { x1: px(marker), x2: px(marker), y1: inset.top - 8, y2: floor, class: "marker" }),
    text(px(marker), inset.top - 14, caption, "caption", anchor));
  return svg;
}

/**
 * Bars that begin where the last one ended. `steps` are {name, from, to, error, kind, note}; one line each, so that a
 * phone can show it too.
 */
export function waterfall(steps, { label, width = 380 }) {
  const row = 46;
  const height = steps.length * row + 30;
  const svg = frame(width, height, label);
  const ends = steps.flatMap(({ from, to, error = 0 }) => [from, to - (error || 0), to + (error || 0)]).concat(0);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const px = (value) => 8 + ((value - low) / (high - low || 1)) * (width - 16);
  const marks = ticks(low, high, 5);
  for (const tick of marks) {
    svg.append(s("line", { x1: px(tick), x2: px(tick), y1: 4, y2: height - 26, class: "rule" }));
    const anchor = px(tick) < 20 ? "start" : px(tick) > width - 20 ? "end" : "middle";
    svg.append(text(px(tick), height - 14, tickText(tick, marks), "tick", anchor));
  }
  svg.append(text(width / 2, height, "nats", "axis"));
  steps.forEach(({ name, from, to, error, kind }, i) => {
    const top = i * row + 24;
    const [left, right] = [px(Math.min(from, to)), px(Math.max(from, to))];
    svg.append(s("rect", { x: left, y: top, width: Math.max(2, right - left), height: 16, rx: 2, class: `step ${kind}` }));
    if (error) {
      const [a, b] = [px(to - error), px(to + error)];
      svg.append(s("path", { d: `M${a} ${top + 3}v10M${a} ${top + 8}H${b}M${b} ${top + 3}v10`, class: "whisker" }));
    }
    svg.append(text(8, top - 7, name, "caption", "start"), text(width - 8, top - 7, plain(kind === "kl" || kind === "gap" ? to - from : to), "caption strong", "end"));
  });
  return svg;
}
