// Service: what the server does now, from its own metrics: all workers together.

import { text } from "../parts/api.js";
import { h, heading } from "../parts/dom.js";
import { Failure } from "../parts/failure.js";
import { bytes, plain, seconds, short } from "../parts/numbers.js";
import { lines } from "../parts/plots.js";
import { growth, parse, quantile, total, valuesOf } from "../parts/prometheus.js";

const EVERY = 2000;
const KEPT = 90;
const VERBS = ["sample", "encode", "elbo", "other"];

export function build(panel) {
  const failure = new Failure();
  const facts = h("dl", { class: "facts" });
  const plots = {};
  const place = (id, title, words) => {
    const [value, body, key] = [h("p", { class: "now" }), h("div"), h("ul", { class: "key" })];
    plots[id] = { value, body, key, title };
    return h("section", { class: "card" }, h("div", { class: "split" }, h("h3", {}, title), value), body, key, h("p", { class: "caption" }, words));
  };
  const history = [];
  let before = null;
  let timer = 0;
  let visible = false;

  panel.append(heading("What the server does", "All workers together, read from /metrics every two seconds while this is open."), failure.element, facts,
    h("div", { class: "columns wide" },
      place("requests", "Requests", "A second, by verb; “other” are pages, models and metrics, this one among them."),
      place("latency", "Latency", "Of sample, encode and elbo requests: half are faster than the lower line, 19 of 20 than the upper."),
      place("queue", "Queue", "Row-draws admitted and not answered yet: one is one row under one draw of z."),
      place("fill", "Tile fill", "Rows share padded tiles of fixed sizes. The rest of a tile is padding."),
      place("rows", "Rows", "Answered a second."), place("refused", "Refused", "Requests a second that ended in a problem of status 400 or above.")));

  async function look() {
    clearTimeout(timer);
    try {
      const now = { at: performance.now() / 1000, reading: parse(await text("metrics")) };
      failure.clear();
      if (before) history.push(between(before, now));
      if (history.length > KEPT) history.shift();
      before = now;
      draw(now.reading);
    } catch (error) {
      before = null;
      failure.show(error);
    }
    if (visible) timer = setTimeout(look, EVERY);
  }

  function between(a, b) {
    const time = b.at - a.at;
    const grown = (name, wanted) => growth(a.reading, b.reading, name, wanted);
    const late = (q) => quantile(a.reading, b.reading, "elbod_request_seconds", { phase: "total" }, q);
    const stages = valuesOf(b.reading, "elbod_tile_places_total", "stage");
    const statuses = valuesOf(b.reading, "elbod_requests_total", "status").filter((status) => Number(status) >= 400);
    const places = grown("elbod_tile_places_total");
    return {
      at: b.at, time,
      verbs: Object.fromEntries(VERBS.map((verb) => [verb, grown("elbod_requests_total", { verb }) / time])),
      half: late(0.5), most: late(0.95), queue: total(b.reading, "elbod_queue_row_draws"),
      fill: places ? (grown("elbod_tile_units_total") / places) * 100 : NaN,
      stages: Object.fromEntries(stages.map((stage) => [stage, (grown("elbod_tile_units_total", { stage }) / grown("elbod_tile_places_total", { stage })) * 100])),
      rows: grown("elbod_rows_total") / time,
      refused: statuses.reduce((all, status) => all + grown("elbod_requests_total", { status }), 0) / time,
    };
  }

  function draw(reading) {
    const ready = total(reading, "elbod_ready_workers");
    const entries = [["Workers ready", `${ready} of ${total(reading, "elbod_workers")}`], ["Models loaded", String(total(reading, "elbod_loaded_models"))],
      ["Memory", bytes(total(reading, "elbod_resident_memory_bytes"))], ["Swaps", String(total(reading, "elbod_swaps_total"))],
      ["Rows answered", total(reading, "elbod_rows_total").toLocaleString("en")], ["Tiles run", total(reading, "elbod_tiles_total").toLocaleString("en")]];
    facts.replaceChildren(...entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
    const newest = history.at(-1);
    if (!newest) {
      for (const { value } of Object.values(plots)) value.textContent = "reading…";
      return;
    }
    const of = (value) => history.map((point) => [Math.round(point.at - newest.at), value(point)]);
    const all = VERBS.reduce((sum, verb) => sum + newest.verbs[verb], 0);
    plot("requests", `${plain(all, 1)} a second`, VERBS.map((verb) => [verb, of(({ verbs }) => verbs[verb])]));
    plot("latency", Number.isFinite(newest.half) ? `${seconds(newest.half)} / ${seconds(newest.most)}` : "idle",
      [["median", of(({ half }) => half * 1000)], ["95 of 100", of(({ most }) => most * 1000)]], "ms");
    plot("queue", `${short(newest.queue)} row-draws`, [["waiting", of(({ queue }) => queue)]]);
    const stages = Object.keys(newest.stages);
    plot("fill", Number.isFinite(newest.fill) ? `${plain(newest.fill, 0)} %` : "idle",
      stages.length ? stages.map((stage) => [stage, of((point) => point.stages[stage] ?? NaN)]) : [["all", of(({ fill }) => fill)]], "%");
    plot("rows", `${plain(newest.rows, 1)} a second`, [["rows", of(({ rows }) => rows)]]);
    plot("refused", `${plain(newest.refused, 1)} a second`, [["refused", of(({ refused }) => refused)]]);
  }

  function plot(id, now, named, unit = "") {
    const { value, body, key, title } = plots[id];
    value.textContent = now;
    const series = named.map(([, points], kind) => ({ points, kind }));
    body.replaceChildren(lines(series, { label: `${title} over the last minutes; now ${now}`, width: 380, height: 150, zero: true, unit, xLabel: "seconds ago", since: Math.min(-60, ...named.flatMap(([, points]) => points.map(([at]) => at))) }));
    key.replaceChildren(...(named.length > 1 ? named.map(([name], i) => h("li", {}, h("i", { class: `series-${i}` }), name)) : []));
  }

  return { show() { visible = true; look(); }, hide() { visible = false; before = null; clearTimeout(timer); } };
}
