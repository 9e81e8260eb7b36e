// The bound profile: what each pass of a draw costs, from the least noise to nothing but noise.

import { row, unpack } from "../parts/arrays.js";
import { h } from "../parts/dom.js";
import { plain, sum } from "../parts/numbers.js";
import { lines } from "../parts/plots.js";

/** A card with the KL of each pass over the log SNR that it makes; `stops` are the levels of the draws. */
export function profile(answer, chain, stops) {
  const kl = row(unpack(answer.kl_per_level), 0);
  const points = Array.from(kl, (value, i) => [chain.logSnr[stops[i]], value]);
  const dearest = points.reduce((most, point) => (point[1] > most[1] ? point : most));
  const label = `KL of each of ${answer.num_steps} passes and of the prior over log SNR, at most ${plain(dearest[1])} nats at log SNR ${plain(dearest[0], 1)}`;
  return h("section", { class: "card profile" }, h("h3", {}, "The bound, level by level"),
    lines([{ points }], { label, width: 420, height: 190, xLabel: "log SNR: noise on the left, the picture on the right", unit: "KL, nats", zero: true, dots: true }),
    h("p", { class: "caption" }, `Each of the ${answer.num_steps} passes takes noise away, and pays for what it could not know. The point furthest left, ${plain(kl.at(-1))} nats, is what is left of x in pure noise. All points add up to ${plain(sum(Array.from(kl)))} nats. They are the KL of each pass in closed form; the KL above is estimated from whole paths, and agrees on average.`));
}
