// The numbers of one z, as bars around zero.

import { s } from "./dom.js";
import { plain } from "./numbers.js";

const MOST = 64;

/** A picture of z: one bar a dimension, of the first 64. */
export function latentBars(z) {
  const values = Array.from(z.slice(0, MOST));
  const [width, height] = [240, 64];
  const most = Math.max(3, ...values.map(Math.abs));
  const step = width / values.length;
  const words = `z: ${values.slice(0, 16).map((value) => plain(value)).join(", ")}${z.length > 16 ? ", …" : ""}`;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height + 14}`, role: "img", "aria-label": words, class: "plot" },
    s("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, class: "base" }));
  values.forEach((value, i) => {
    const tall = Math.max(1, (Math.abs(value) / most) * (height / 2));
    svg.append(s("rect", { x: i * step + step * 0.15, y: value > 0 ? height / 2 - tall : height / 2, width: step * 0.7, height: tall, class: "bar" }));
  });
  const dims = z.length === 1 ? "z, one number" : `z, ${z.length} numbers${z.length > MOST ? `, the first ${MOST} shown` : ""}, within ±${plain(most, 1)}`;
  svg.append(s("text", { x: 0, y: height + 11, class: "tick" }, dims));
  return svg;
}
