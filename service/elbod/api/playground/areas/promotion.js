// Moving an alias: asked for what was seen when the dialog opened, so that whoever is late is told and loses nothing.

import { change } from "../parts/api.js";
import { announce, fill, h } from "../parts/dom.js";

export class Promotion {
  /** `moved` is called after an alias moved, or turned out to have been moved by somebody else. */
  constructor(moved) {
    this.moved = moved;
    this.title = h("h2", { id: "promotion-title" });
    this.alias = h("input", { type: "text", required: true, pattern: "[a-z][a-z0-9_\\-]*", maxlength: 64, spellcheck: false });
    this.version = h("select");
    this.versionField = h("label", { class: "field" }, h("span", {}, "Version"), this.version);
    this.why = h("input", { type: "text", required: true, maxlength: 1000 });
    this.key = h("input", { type: "password", autocomplete: "off", spellcheck: false });
    this.words = h("p");
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.submit = h("button", { class: "primary" });
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); this.#send(); } }, this.title, this.words,
      h("label", { class: "field" }, h("span", {}, "Alias"), this.alias), this.versionField,
      h("label", { class: "field" }, h("span", {}, "Why"), this.why, h("small", {}, "for the alias's history")),
      h("label", { class: "field" }, h("span", {}, "Key of scope “admin”"), this.key, h("small", {}, "where the server has keys; kept in this page's memory")), this.problem,
      h("div", { class: "actions" }, h("button", { type: "button", onclick: () => this.element.close() }, "Cancel"), this.submit));
    this.element = h("dialog", { "aria-labelledby": "promotion-title" }, form);
  }

  /** Ask for a promotion, of `alias` or of one yet to be named; or with `back` to go to its version before. */
  open(entry, { alias = null, version = null, back = false }) {
    const now = alias === null ? undefined : entry.aliases[alias] ?? null;
    Object.assign(this, { name: entry.name, entry, back, expected: now });
    this.title.textContent = back ? `Roll ${alias} back` : alias === null ? "Promote a version" : `Move ${alias}`;
    this.words.textContent = now === undefined ? `An alias of ${entry.name} is moved, or made.` : now === null ? "" : `${entry.name}@${alias} names version ${now} now${back ? "; it will name the one before that." : "."}`;
    this.alias.value = alias ?? "production";
    this.alias.readOnly = alias !== null;
    this.versionField.hidden = back;
    fill(this.version, [...entry.versions].reverse().map((number) => [number, String(number)]), version ?? entry.versions.at(-1));
    this.why.value = back ? "rolled back" : "";
    this.submit.textContent = back ? "Roll back" : "Promote";
    this.problem.hidden = true;
    this.submit.disabled = false;
    this.element.showModal();
  }

  async #send() {
    const alias = this.alias.value.trim();
    const expected = this.expected === undefined ? this.entry.aliases[alias] ?? null : this.expected;
    const path = `models/${encodeURIComponent(this.name)}/aliases/${encodeURIComponent(alias)}`;
    this.submit.disabled = true;
    try {
      const body = { expected, why: this.why.value };
      const key = this.key.value.trim();
      const move = await (this.back ? change("DELETE", path, body, key) : change("PUT", path, { ...body, version: Number(this.version.value) }, key));
      this.element.close();
      announce(`${move.name}@${move.alias} names version ${move.version} now`);
      await this.moved(`${move.name}@${move.alias} names version ${move.version} now.`);
    } catch (error) {
      const lost = error.status === 409;
      this.problem.textContent = `${lost ? "Somebody else was faster, and nothing was changed: " : ""}${error.message}`;
      this.problem.hidden = false;
      if (lost) await this.moved("");
      else this.submit.disabled = false;
    }
  }
}
