// Elements and labelled controls, made without markup: text from the server can only ever be text.

/** An element. `on...` are listeners, `class` and attributes are set; false and null are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** An SVG element. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A control under its label, with a line of help where it needs one. */
export function field(label, control, help = null) {
  return h("label", { class: "field" }, h("span", {}, label), control, help && h("small", {}, help));
}

/** A select of [value, text] pairs. */
export function select(options, value, onchange) {
  const element = h("select", { onchange });
  fill(element, options, value);
  return element;
}

/** Other options in a select; `value` is chosen if it is among them. */
export function fill(element, options, value) {
  element.replaceChildren(...options.map(([key, text]) => h("option", { value: key }, text)));
  if (options.some(([key]) => String(key) === String(value))) element.value = value;
}

/** A slider that shows its value. */
export function slider(label, { min, max, step, value, text = String }, oninput) {
  const shown = h("output", {}, text(value));
  const input = h("input", { type: "range", min, max, step, value, "aria-label": label });
  input.value = value;
  const show = () => {
    shown.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => { show(); oninput(Number(input.value)); });
  const element = h("div", { class: "field" }, h("span", { class: "split" }, h("span", {}, label), shown), input);
  return {
    element, input,
    get value() { return Number(input.value); },
    set value(given) { input.value = given; show(); },
    range(low, high, stride) { Object.assign(input, { min: low, max: high, step: stride }); show(); },
  };
}

let groups = 0;

/** One choice of a few [value, text] pairs, side by side. */
export function choice(label, options, value, onchange) {
  const name = `choice-${(groups += 1)}`;
  const radios = options.map(([key, text]) => {
    const radio = h("input", { type: "radio", name, value: key, onchange: () => onchange(key) });
    radio.checked = key === value;
    return [radio, h("label", { class: "segment" }, radio, h("span", {}, text))];
  });
  const element = h("fieldset", { class: "field choice" }, h("legend", {}, label),
    h("div", { class: "segments" }, radios.map(([, segment]) => segment)));
  return {
    element,
    get value() { return radios.find(([radio]) => radio.checked)[0].value; },
    set value(given) { for (const [radio] of radios) radio.checked = radio.value === given; },
    offer(keys) { for (const [radio, segment] of radios) segment.hidden = !keys.includes(radio.value); },
  };
}

/** A heading with a sentence under it. */
export function heading(title, ...words) {
  return h("div", { class: "heading" }, h("h2", {}, title), words.length ? h("p", {}, words) : null);
}

/** Say something to those who do not see the page change. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
