// The levels of a model whose draws take passes: level 0 has the least noise, the last one nothing else.

import { get } from "./api.js";
import { plain } from "./numbers.js";

/** What the server says of a version's levels; null where draws take one pass. */
export async function askChain(path) {
  const found = await get(`${path}/levels`);
  return found.levels === null ? null : new Chain(path, found);
}

class Chain {
  constructor(path, { levels, log_snr: logSnr, default_level: middle, null_label: nullLabel }) {
    Object.assign(this, { path, levels, logSnr, middle, nullLabel });
    this.asked = new Map();
  }

  /** T, the most passes of a draw, and the level of pure noise. */
  get top() {
    return this.levels.at(-1);
  }

  text(level) {
    return `level ${level}, log SNR ${plain(this.logSnr[level], 1)}`;
  }

  /** The levels, ascending, at which draws of `steps` passes stop; all of them for null. */
  stops(steps) {
    if (steps === null) return this.levels;
    if (!this.asked.has(steps)) this.asked.set(steps, get(`${this.path}/levels?num_steps=${steps}`).then(({ levels }) => levels));
    return this.asked.get(steps).catch((error) => { this.asked.delete(steps); throw error; });
  }
}
