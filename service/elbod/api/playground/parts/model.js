// The model that is shown: its manifest, what its rows look like, and what its latents are.

import { get, post } from "./api.js";
import { row, unpack } from "./arrays.js";
import { askChain } from "./chain.js";
import { sum } from "./numbers.js";

const PROBES = 256;
const MOST_MEASURED = 64;

/** The version that a reference means: of a bare name, the alias `production`, else the newest. */
export function resolve(entry, reference) {
  const [, chosen = "production"] = reference.split("@", 2);
  if (entry.aliases[chosen] !== undefined) return entry.aliases[chosen];
  if (/^\d+$/.test(chosen)) return entry.versions.includes(Number(chosen)) ? Number(chosen) : null;
  return chosen === "production" || chosen === "latest" ? entry.versions.at(-1) ?? null : null;
}

/** One version, with its manifest. */
export async function load(name, version) {
  return new Model(await get(pathOf(name, version)));
}

const pathOf = (name, version) => `models/${encodeURIComponent(name)}/versions/${version}`;

export class Model {
  constructor(manifest) {
    const shape = manifest.event_shape;
    const image = shape.length === 2 || (shape.length === 3 && [1, 3].includes(shape[0]));
    const [height, width] = image ? shape.slice(-2) : [1, shape.reduce((a, b) => a * b, 1)];
    const channels = image && shape.length === 3 ? shape[0] : 1;
    Object.assign(this, { manifest, shape, image, height, width, channels });
    this.name = manifest.name;
    this.version = manifest.version;
    /** The reference that every request names, so that a promotion in between changes nothing. */
    this.reference = `${manifest.name}@${manifest.version}`;
    /** The address of what the server knows of this version. */
    this.path = pathOf(this.name, this.version);
    this.size = height * width * channels;
    this.labels = manifest.labels;
    /** The largest level; 1 where there are none. */
    this.top = (manifest.levels ?? 2) - 1;
    this.discrete = manifest.levels !== null;
  }

  /** A typed array of x in data units, of the dtype that requests should carry. */
  rows(count) {
    const Type = !this.discrete ? Float32Array : this.top < 256 ? Uint8Array : BigInt64Array;
    return new Type(count * this.size);
  }

  /** One row of x, of the levels nearest to values in data units, or of the values. */
  nearest(values) {
    const x = this.rows(1);
    x.set(Array.from(values, (value) => {
      const level = this.discrete ? Math.round(Number(value)) : Number(value);
      return x instanceof BigInt64Array ? BigInt(level) : level;
    }));
    return x;
  }

  /** One row of x nearest to intensities in 0 ... 1. */
  quantize(intensities) {
    return this.nearest(this.discrete ? Array.from(intensities, (value) => value * this.top) : intensities);
  }

  /** What a request says about labels: one for all rows, each class in turn for "each", or none for "none". */
  label(choice, rows) {
    if (!this.labels || choice === "none") return {};
    if (choice !== "each") return { label: Number(choice) || 0 };
    return { label: Array.from({ length: rows }, (_, i) => i % this.labels.length) };
  }

  /** The levels on the way of its draws, asked once; null where draws take one pass. */
  chain() {
    this.askedChain ??= askChain(this.path).catch((error) => { this.askedChain = null; throw error; });
    return this.askedChain;
  }

  /** The rows that were published with it, {x, label, elbo}, as `unpack` gives them; null if there are none. */
  async heldOut() {
    if (!this.manifest.reference) return null;
    const found = await get(`${this.path}/reference`);
    return { x: unpack(found.x), label: unpack(found.label), elbo: unpack(found.elbo) };
  }

  /** What is known of z, asked once: see `measure`. */
  latents() {
    this.asked ??= measure(this).catch((error) => { this.asked = null; throw error; });
    return this.asked;
  }
}

/**
 * {dim, values, centre, low, high, kl, order, orderedBy}: the centre of the prior and the range of each dimension by
 * draws from it; `values` are those of a discrete z, else null; `order` are dimensions, most informative first.
 */
async function measure(model) {
  const about = { model: model.reference, seed: 0, ...model.label(0, 1) };
  const draws = unpack((await post("sample", { ...about, num_samples: PROBES, output: "mean" })).z);
  const [count, dim] = draws.shape;
  const rows = Array.from({ length: count }, (_, i) => row(draws, i));
  const whole = dim === 1 && draws.data.every(Number.isInteger);
  if (whole) {
    const highest = draws.data.reduce((a, b) => Math.max(a, b), 0);
    const values = Array.from({ length: highest + 1 }, (_, value) => value);
    return { dim, values, centre: [0], order: [0], kl: null, orderedBy: "" };
  }
  const centre = await post("sample", { ...about, temperature: 0 }).then((answer) => [...row(unpack(answer.z), 0)])
    .catch((error) => { if (error.status === 422) return new Array(dim).fill(0); throw error; });
  const low = [];
  const high = [];
  for (let d = 0; d < dim; d += 1) {
    const mean = sum(rows.map((z) => z[d])) / count;
    const sd = Math.sqrt(sum(rows.map((z) => (z[d] - mean) ** 2)) / count);
    // Draws from N(0, 1) are as good as exactly that: round numbers on the axes.
    const standard = Math.abs(mean) < 0.25 && Math.abs(sd - 1) < 0.25;
    low.push(standard ? -3 : mean - 3 * sd);
    high.push(standard ? 3 : mean + 3 * sd);
  }
  return { dim, values: null, centre, low, high, ...(await rank(model, centre, low, high)) };
}

/** Dimensions by how much they tell of x. */
async function rank(model, centre, low, high) {
  const dim = centre.length;
  const indices = Array.from({ length: dim }, (_, d) => d);
  const byValue = (values) => [...indices].sort((a, b) => values[b] - values[a]);
  const published = model.manifest.metrics.kl_per_dimension;
  if (published) return { kl: published, order: byValue(published), orderedBy: "their mean KL on held-out rows" };
  const x = await post("sample", { model: model.reference, seed: 0, num_samples: MOST_MEASURED, ...model.label("each", MOST_MEASURED) });
  const encoded = await post("encode", { model: model.reference, x: x.x, ...model.label("each", MOST_MEASURED) });
  const kl = unpack(encoded.kl_per_dimension);
  if (kl) {
    const mean = indices.map((d) => sum(Array.from({ length: kl.shape[0] }, (_, i) => row(kl, i)[d])) / kl.shape[0]);
    return { kl: mean, order: byValue(mean), orderedBy: "their mean KL on 64 samples of the model itself" };
  }
  const measured = indices.slice(0, MOST_MEASURED);
  const moved = measured.flatMap((d) => [low, high].map((end) => centre.map((value, i) => (i === d ? end[d] / 2 + value / 2 : value))));
  const answer = await post("sample", { model: model.reference, seed: 0, z: moved, output: "mean", ...model.label(0, 1) });
  const decoded = unpack(answer.x);
  const change = indices.map((d) => {
    if (d >= MOST_MEASURED) return -1;
    const [a, b] = [row(decoded, 2 * d), row(decoded, 2 * d + 1)];
    return sum(Array.from(a, (value, i) => (value - b[i]) ** 2));
  });
  return { kl: null, order: byValue(change), orderedBy: "how much they change the picture: this family's KL does not separate" };
}
