// What a score says: pictures, parts, errors, bounds, and the place among held-out rows, each in words.

import { unpack } from "../parts/arrays.js";
import { h } from "../parts/dom.js";
import { nats, plain, short } from "../parts/numbers.js";
import { histogram, waterfall } from "../parts/plots.js";
import { maps } from "./maps.js";
import { profile } from "./profile.js";

/** The first row of an answer of /elbo as plain numbers; null for what is undefined. */
export function numbersOf(answer) {
  const names = ["elbo", "standard_error", "reconstruction", "kl", "bits_per_dim", "iwae", "iwae_standard_error",
    "effective_sample_size", "pareto_k", "gap", "gap_standard_error", "log_evidence", "quantile", "typicality"];
  return Object.fromEntries(names.map((name) => {
    const value = unpack(answer[name])?.data[0];
    return [name, value === undefined || Number.isNaN(value) ? null : value];
  }));
}

/**
 * All of the verdict on x. `mean` is its reconstruction, `calibration` the held-out scores, `chain` the levels on the way
 * of the model's draws and `stops` those where the scored ones stopped; each null where there is none.
 */
export function verdict(model, x, answer, { mean, calibration, chain, stops }) {
  const score = numbersOf(answer);
  return [
    h("p", { class: "lead" }, lead(score, answer)),
    maps(model, x, answer, mean, chain),
    h("div", { class: "columns" },
      h("section", { class: "card" }, h("h3", {}, "How the bound adds up"), parts(score, answer)),
      h("section", { class: "card" }, h("h3", {}, "Among held-out rows"), ...place(score, answer, calibration))),
    ...(chain ? [profile(answer, chain, stops)] : []),
    h("section", { class: "card" }, h("h3", {}, "Every number"), table(score, answer)),
    h("p", { class: "notice" }, "A likelihood is not a probability of anomaly. Models can give rows from elsewhere a higher likelihood than the rows they were trained on: look at the parts and at the place among held-out rows, and compare with rows of your own."),
  ];
}

function lead(score, answer) {
  const which = answer.conditional_on ? "log p(x|y)" : "log p(x)";
  const bits = score.bits_per_dim === null ? "" : `, or ${plain(score.bits_per_dim, 3)} bits for each of its ${answer.event_dims} elements`;
  return [h("strong", {}, `ELBO ${nats(score.elbo, score.standard_error)}`), `${bits}. It is a lower bound on ${which}: higher means better explained.`];
}

function parts(score, answer) {
  const steps = [
    { name: "Reconstruction, E[log p(x|z)]", from: 0, to: score.reconstruction, kind: "reconstruction" },
    { name: "less KL(q(z|x) ‖ p(z))", from: score.reconstruction, to: score.reconstruction - score.kl, kind: "kl" },
    { name: "ELBO", from: 0, to: score.elbo, error: score.standard_error, kind: "elbo" },
  ];
  if (score.iwae !== null) steps.push({ name: `IWAE, ${answer.num_importance_samples} draws: closer to log p(x)`, from: 0, to: score.iwae, error: score.iwae_standard_error, kind: "gap" });
  if (score.log_evidence !== null) steps.push({ name: "log p(x), exact", from: 0, to: score.log_evidence, kind: "gap" });
  const label = steps.map(({ name, from, to, kind }) => `${name}: ${plain(kind === "kl" ? to - from : to)} nats`).join("; ");
  return waterfall(steps, { label });
}

function place(score, answer, calibration) {
  if (!calibration) return [h("p", { class: "caption" }, `Nothing to compare with: ${answer.reference_reason ?? "the model was published without calibration scores"}.`)];
  const values = Array.from(calibration.data);
  const below = values.filter((value) => value <= score.elbo).length;
  const share = `${below} of ${values.length}`;
  const label = `Histogram of the ELBO of ${values.length} held-out rows, from ${plain(values[0], 1)} to ${plain(values.at(-1), 1)} nats; this row has ${plain(score.elbo, 1)} nats, above ${share} of them`;
  const words = score.typicality === null ? answer.reference_reason : `${share} held-out rows score at or below this one. Quantile ${plain(score.quantile, 3)}, typicality ${plain(score.typicality, 3)}: of rows like the held-out ones, at most that share would come out as extreme, to either side.`;
  return [histogram(values, score.elbo, { label, caption: "this row" }), h("p", { class: "caption" }, words ?? "")];
}

function table(score, answer) {
  const smc = answer.kl_estimator === "closed_form" ? "in closed form" : "estimated from draws";
  const entries = [
    ["ELBO", nats(score.elbo, score.standard_error), `The mean of ${answer.num_samples} draws ± its Monte-Carlo standard error. Expected to be at most ${answer.conditional_on ? "log p(x|y)" : "log p(x)"}.`],
    ["Reconstruction", nats(score.reconstruction), "How well z explains x: E[log p(x|z)] with z from q(z|x)."],
    ["KL", nats(score.kl), `What z itself costs: how far q(z|x) is from the prior, ${smc}.`],
    ["Bits per dimension", score.bits_per_dim === null ? null : `${plain(score.bits_per_dim, 4)} bits`, `The ELBO as a code length over ${answer.event_dims} elements; lower is better.`],
    ["IWAE", score.iwae === null ? null : nats(score.iwae, score.iwae_standard_error), `The importance-weighted bound of ${answer.num_importance_samples} draws: tighter, still a lower bound in expectation.${score.iwae_standard_error === null ? " Its error would understate: the weights' tail is too heavy." : ""}`],
    ["Gap", score.gap === null ? null : nats(score.gap, score.gap_standard_error), answer.gap_kind === "exact" ? "log p(x) less the ELBO: KL(q(z|x) ‖ p(z|x)) exactly." : "What better inference would win at least: a low estimate of KL(q(z|x) ‖ p(z|x))."],
    ["Exact log p(x)", score.log_evidence === null ? null : nats(score.log_evidence), "This family can compute it."],
    ["Effective sample size", score.effective_sample_size === null ? null : `${short(score.effective_sample_size)} of ${answer.num_importance_samples} draws`, "How many equal weights would be worth as much."],
    ["Pareto k", score.pareto_k === null ? null : plain(score.pareto_k), "The tail of the weights: above 0.7 the IWAE's error is not to be trusted."],
  ];
  return h("dl", { class: "numbers" }, entries.filter(([, value]) => value !== null).map(([name, value, words]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value), h("dd", { class: "words" }, words))));
}
