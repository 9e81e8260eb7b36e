// Two kinds of lines between pictures: through z itself, or through noise that both ends share.

import { post } from "../parts/api.js";
import { join, pack, row, stack, unpack } from "../parts/arrays.js";

const SEED = 0;

/** What a request says of an end, {x, z or null, label: the field of requests}. */
const asked = (model, { x, label }) => ({ model: model.reference, x: pack(model.nearest(x), [1, ...model.shape]), seed: SEED, ...label });

const drawn = (model, rows, how) => post("sample", { model: model.reference, z: stack(rows), seed: SEED, ...how }).then(({ x }) => unpack(x));

/** `code` asks for the z of an end, once each. */
function once(code) {
  const known = new WeakMap();
  return (end) => {
    if (!known.has(end)) known.set(end, code(end).catch((error) => { known.delete(end); throw error; }));
    return known.get(end);
  };
}

/** Where draws take one pass: an end is at its own z, else at the most likely one of its x; pictures are means. */
export const means = (model) => ({
  level: null,
  words: "Mean pictures on the straight line between two z.",
  code: once(async (end) => end.z ?? row(unpack((await post("sample", { ...asked(model, end), temperature: 0, output: "mean" })).z), 0)),
  pictures: (rows, label) => drawn(model, rows, { output: "mean", ...label }),
});

/**
 * Where draws take passes: the same draw of noise is added to both ends, so that a z between them is a picture between
 * them under just that noise. Every picture is drawn from there with the same noise again.
 */
export const sharedNoise = (model, level) => ({
  level,
  words: "Both ends under the same noise, the straight line between their z, and from each z a draw with the same seed. The more noise, the more is left to the model.",
  code: once(async (end) => unpack((await post("encode", { ...asked(model, end), first_index: 0, num_samples: 1, level })).z).data),
  // A request each: the noise of a row is that of its index.
  pictures: async (rows, label) => join(await Promise.all(rows.map((z) => drawn(model, [z], { first_index: 0, level, ...label })))),
});
