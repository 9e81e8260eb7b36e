// The page: which area, which model, which key; what happens when the server goes and comes back.

import { build as exploreArea } from "./areas/explore.js";
import { build as modelsArea } from "./areas/models.js";
import { build as sampleArea } from "./areas/sample.js";
import { build as scoreArea } from "./areas/score.js";
import { build as serviceArea } from "./areas/service.js";
import { events, get, useKey } from "./parts/api.js";
import { watchConnection } from "./parts/connection.js";
import { fill } from "./parts/dom.js";
import { load, resolve } from "./parts/model.js";
import * as route from "./parts/route.js";

const element = (id) => document.getElementById(id);
const line = element("connection");

/** What all areas share. `taken` is the picture whose z was taken, `slots` the two that are interpolated. */
const app = {
  models: [], entry: null, model: null, taken: null, slots: { a: null, b: null },
  open: (area, values = {}) => { remembered[area] = new URLSearchParams(values); open(area); },
  choose: (reference) => choose(reference),
  refresh: () => refreshModels(),
};

const areas = {
  sample: sampleArea(element("panel-sample"), app),
  explore: exploreArea(element("panel-explore"), app),
  score: scoreArea(element("panel-score"), app),
  models: modelsArea(element("panel-models"), app),
  service: serviceArea(element("panel-service"), app),
};
const remembered = {};
const tabs = [...document.querySelectorAll("[role=tab]")];
let current = null;
let reference = "";
let choosing = 0;

function open(area) {
  const params = remembered[area] ?? new URLSearchParams();
  params.set("model", reference);
  if (!reference) params.delete("model");
  route.go(area, params);
  display();
}

/** Show what the address says. */
function display() {
  const { area, params } = route.read();
  if (current && current !== area) areas[current].hide?.();
  current = area;
  document.title = `${area[0].toUpperCase()}${area.slice(1)} · elbod playground`;
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${area}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    element(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (app.model || area === "service") areas[area].show(params);
}

for (const tab of tabs) {
  tab.addEventListener("click", () => { keep(); open(tab.id.replace("tab-", "")); });
  tab.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    const here = tabs.indexOf(tab);
    const place = { Home: 0, End: tabs.length - 1 }[event.key] ?? here + (steps[event.key] ?? NaN);
    if (Number.isNaN(place)) return;
    event.preventDefault();
    const next = tabs.at(place % tabs.length);
    next.focus();
    next.click();
  });
}

/** Remember how an area was left, to return to it so. */
function keep() {
  const { area, params } = route.read();
  remembered[area] = params;
}

function versionOptions(entry) {
  const fixed = resolve(entry, entry.name);
  const rule = entry.aliases.production === undefined ? "newest" : "production";
  return [
    [entry.name, `${rule} (${fixed})`],
    ...Object.entries(entry.aliases).filter(([alias]) => alias !== "production")
      .map(([alias, version]) => [`${entry.name}@${alias}`, `${alias} (${version})`]),
    ...[...entry.versions].reverse().map((version) => [`${entry.name}@${version}`, String(version)]),
  ];
}

/** Another model, or another version of it, for all areas. */
async function choose(wanted) {
  const mine = (choosing += 1);
  const name = wanted.split("@")[0];
  try {
    const entry = await get(`models/${encodeURIComponent(name)}`);
    let version = resolve(entry, wanted);
    const missing = version === null;
    if (missing) version = resolve(entry, name);
    if (version === null) throw new Error(`${name} has no live version.`);
    const model = app.model?.reference === `${name}@${version}` ? app.model : await load(name, version);
    if (mine !== choosing) return;
    if (app.model?.reference !== model.reference) Object.assign(app, { taken: null, slots: { a: null, b: null } });
    Object.assign(app, { entry, model });
    reference = missing ? name : wanted;
    element("model").value = name;
    fill(element("version"), versionOptions(entry), reference);
    element("version").disabled = false;
    route.note({ model: reference });
    tell(missing ? `There is no ${wanted}: this is ${model.reference}.` : "");
    display();
  } catch (error) {
    if (mine === choosing) tell(error.status === 401 ? "" : error.message);
  }
}

let told = "";

/** A sentence in the line above the areas, unless the connection has something to say there. */
function tell(text) {
  if (line.hidden || line.textContent === told) {
    line.textContent = told = text;
    line.hidden = !text;
  }
}

/** What the store holds, for the pickers; the default model at first. */
async function start() {
  try {
    app.models = (await get("models")).models;
  } catch (error) {
    if (error.status !== 401) tell(error.message);
    return;
  }
  const picker = element("model");
  fill(picker, app.models.map(({ name }) => [name, name]), picker.value);
  picker.disabled = app.models.length === 0;
  if (!app.models.length) {
    tell("The store holds no model yet. Publish one with “elbod train --recipe digits”; this page notices it.");
    setTimeout(start, 3000);
    return;
  }
  const asked = route.read().params.get("model") ?? "";
  const known = app.models.some(({ name }) => name === asked.split("@")[0]);
  if (asked && !known) tell(`There is no model ${asked.split("@")[0]} here.`);
  await choose(known ? asked : await defaultModel());
}

async function defaultModel() {
  const { model } = await get("readyz").catch(() => ({ model: null }));
  return (model ?? app.models[0].name).split("@")[0];
}

/** After something was published or promoted: the same choice, which may mean another version now. */
async function refreshModels() {
  try {
    app.models = (await get("models")).models;
  } catch (error) {
    return tell(error.status === 401 ? "" : error.message);
  }
  fill(element("model"), app.models.map(({ name }) => [name, name]), element("model").value);
  return choose(reference);
}

element("model").addEventListener("change", (event) => choose(event.target.value));
element("version").addEventListener("change", (event) => choose(event.target.value));
addEventListener("popstate", () => {
  const asked = route.read().params.get("model");
  if (asked && asked !== reference) choose(asked);
  else display();
});

// Canvases are painted in the colours of the moment.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", display);

const dialog = element("key-dialog");
element("key-button").addEventListener("click", () => { element("key").value = ""; dialog.showModal(); });
dialog.addEventListener("close", () => {
  if (dialog.returnValue === "use") useKey(element("key").value);
  element("key").value = "";
});
events.addEventListener("locked", () => {
  line.textContent = told = "This server asks for a key, or does not know the one given. Press “Key” above.";
  line.hidden = false;
  element("key-button").classList.add("wanted");
});
events.addEventListener("keyed", () => {
  element("key-button").classList.remove("wanted");
  tell("");
  if (app.model) display();
  else start();
});

watchConnection(line, () => (app.model ? refreshModels() : start()));
display();
start();
