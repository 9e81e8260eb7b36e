// Models: what is published and loaded, who moved which alias when, cards and curves, and a live view of training.

import { get } from "../parts/api.js";
import { h, heading } from "../parts/dom.js";
import { Failure } from "../parts/failure.js";
import { rendered } from "../parts/markdown.js";
import { nats, plain } from "../parts/numbers.js";
import { lines } from "../parts/plots.js";
import { Learning } from "./learning.js";
import { Promotion } from "./promotion.js";

const EVERY = 1500;

export function build(panel, app) {
  const failure = new Failure();
  const said = h("p", { class: "notice", role: "status", hidden: true });
  const store = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Models in the store" });
  const aliases = h("div", { class: "controls" });
  const learning = new Learning((error) => failure.show(error));
  const metrics = h("section", { class: "card" });
  const curve = h("section", { class: "card" });
  const card = h("section", { class: "card prose" });
  const promotion = new Promotion(async (words) => {
    await look();
    await app.refresh();
    // Only now: whoever moves the alias on expects what is shown.
    said.textContent = words;
    said.hidden = !words;
  });
  let timer = 0;
  let looks = 0;
  let visible = false;
  let shown = "";
  let cardOf = null;

  panel.append(heading("What is published", "Versions never change. Aliases do, and each move is one line of their history."), failure.element, said, store,
    h("section", { class: "section" }, h("h2", {}, "Aliases"), aliases), learning.element,
    h("section", { class: "section" }, h("h2", {}, "This version"), h("div", { class: "columns" }, metrics, curve), card), promotion.element);

  async function look() {
    const mine = (looks += 1);
    clearTimeout(timer);
    try {
      const [{ models }, entry] = await Promise.all([get("models"), get(`models/${encodeURIComponent(app.model.name)}`)]);
      if (mine !== looks) return;
      failure.clear();
      render(models, entry);
      if (entry.versions.length) learning.update(entry);
      // What the pickers above offer, and what a name without a version means, has changed.
      if (meaning(entry) !== meaning(app.entry)) await app.refresh();
    } catch (error) {
      failure.show(error);
    }
    if (visible && mine === looks) later();
  }

  function later() {
    timer = setTimeout(() => (document.hidden ? later() : look()), EVERY);
  }

  const meaning = ({ name, versions, aliases: named }) => JSON.stringify([name, versions, named]);

  /** The tables, if anything in them changed: what has the focus stays. */
  function render(models, entry) {
    const now = JSON.stringify([models, entry, app.model.reference]);
    if (now === shown) return;
    shown = now;
    store.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ["Model", "Versions", "Newest", "Aliases", "Loaded here", ""].map((name) =>
      h("th", { scope: "col" }, name || h("span", { class: "unseen" }, "Show"))))),
    h("tbody", {}, models.map((model) => h("tr", { "aria-current": model.name === entry.name ? "true" : null },
      h("td", {}, h("strong", {}, model.name)), h("td", {}, String(model.versions.length)), h("td", {}, String(model.versions.at(-1) ?? "–")),
      h("td", {}, Object.entries(model.aliases).map(([alias, version]) => `${alias} → ${version}`).join(", ") || "none"),
      h("td", {}, model.loaded.map(({ version }) => version).join(", ") || "not yet"),
      h("td", {}, model.name === entry.name ? h("span", { class: "caption" }, "shown") : h("button", { type: "button", onclick: () => app.choose(model.name) }, "Show")))))));
    const rows = Object.entries(entry.aliases).map(([alias, version]) => h("tr", {}, h("td", {}, h("strong", {}, alias)), h("td", {}, `version ${version}`),
      h("td", {}, h("div", { class: "actions" },
        h("button", { type: "button", onclick: () => promotion.open(entry, { alias, version: app.model.version }) }, "Move…"),
        h("button", { type: "button", onclick: () => promotion.open(entry, { alias, back: true }) }, "Roll back…")))));
    const history = Object.values(entry.history).flat().sort((a, b) => (a.when < b.when ? 1 : -1));
    const named = (line) => Object.entries(entry.history).find(([, moves]) => moves.includes(line))[0];
    aliases.replaceChildren(...[
      h("p", { class: "caption" }, rows.length ? `${entry.name} alone means its alias “production” if that is set, else its newest version.` : `${entry.name} has no alias: its name alone means its newest version, ${entry.versions.at(-1) ?? "none"}.`),
      rows.length ? h("div", { class: "scroll" }, h("table", { class: "narrow" }, h("tbody", {}, rows))) : null,
      h("div", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: () => promotion.open(entry, { version: app.model.version }) }, "Promote a version…")),
      history.length ? h("details", { open: true }, h("summary", {}, "History"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "History of the aliases" },
        h("table", {}, h("thead", {}, h("tr", {}, ["When", "Alias", "Version", "Who", "Why"].map((name) => h("th", { scope: "col" }, name)))),
          h("tbody", {}, history.map((line) => h("tr", {}, h("td", {}, when(line.when)), h("td", {}, named(line)), h("td", {}, line.version === null ? "removed" : String(line.version)), h("td", {}, line.who), h("td", {}, line.why))))))) : null,
    ].filter(Boolean));
  }

  function describe() {
    if (cardOf === app.model) return;
    cardOf = app.model;
    const { manifest } = app.model;
    metrics.replaceChildren(h("h3", {}, `${app.model.reference}, held out`), ...numbers(manifest));
    curve.replaceChildren(h("h3", {}, "Training"), ...training(manifest));
    card.replaceChildren(h("h3", {}, "Card"), ...(manifest.card.trim() ? rendered(manifest.card) : [h("p", { class: "caption" }, "This version has no card.")]));
  }

  return {
    show() {
      visible = true;
      shown = "";
      describe();
      look();
    },
    hide() {
      visible = false;
      said.hidden = true;
      clearTimeout(timer);
    },
  };
}

const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });

function numbers({ metrics, created, family, likelihood, event_shape: shape, levels, labels }) {
  const about = [["Family", family], ["Likelihood", likelihood], ["Rows", `${shape.join(" × ")}${levels ? `, ${levels} levels` : ""}`],
    ...(labels ? [["Classes", labels.join(", ")]] : []), ["Published", when(created)]];
  const scores = metrics.elbo === undefined ? [] : [
    ["ELBO", nats(metrics.elbo, metrics.standard_error)], ["Reconstruction", nats(metrics.reconstruction)], ["KL", nats(metrics.kl)],
    ...(metrics.bits_per_dim === null ? [] : [["Bits per dimension", `${plain(metrics.bits_per_dim, 4)} bits`]]),
    ...(metrics.iwae === undefined ? [] : [[`IWAE, ${metrics.num_importance_samples} draws`, nats(metrics.iwae, metrics.iwae_standard_error)]]),
    ...(metrics.log_evidence === undefined ? [] : [["Exact log p(x)", nats(metrics.log_evidence)]]),
    ...(metrics.baseline ? [[`Baseline: ${metrics.baseline.model}`, nats(metrics.baseline.log_prob)]] : []),
  ];
  const list = h("dl", { class: "numbers tight" }, [...scores, ...about].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  return [list, h("p", { class: "caption" }, metrics.n ? `Means over ${metrics.n} test rows ± their standard error over rows. Bounds are higher when better, bits lower.` : "Published without held-out numbers.")];
}

function training({ training: record }) {
  const points = (record.curve ?? []).filter(({ epoch }) => epoch !== null);
  if (points.length < 2) return [h("p", { class: "caption" }, "Published without a curve.")];
  const bound = { points: points.map(({ epoch, elbo }) => [epoch, elbo ?? NaN]), band: points.map(({ epoch, elbo, standard_error: e }) => [epoch, elbo - e, elbo + e]) };
  const objective = { points: points.map(({ epoch, objective: value }) => [epoch, value ?? NaN]) };
  const label = `Held-out ELBO from ${plain(points[0].elbo, 1)} nats at epoch ${points[0].epoch} to ${plain(points.at(-1).elbo, 1)} nats at epoch ${points.at(-1).epoch}`;
  return [lines([bound, objective], { label, width: 400, height: 230, xLabel: "epoch", unit: "nats a row" }),
    h("ul", { class: "key" }, h("li", {}, h("i"), "held-out ELBO ± standard error"), h("li", {}, h("i", { class: "series-1" }), "training objective")),
    h("p", { class: "caption" }, `${record.steps ?? "?"} steps on ${record.device ?? "?"}${record.wall_time ? `, ${plain(record.wall_time, 1)} s` : ""}. `, record.command ? h("code", {}, record.command) : null)];
}
