// Kinds of fields of the form. Each is {name, root, own, get, set, error, focus}, some with `wrong`. Values are texts;
// "" is the bundle's own, which `own` names.

import { el, setText } from "./dom.js";

/** A message below a control, which screen readers read with it. */
function frame(name, control, root, { hint }) {
  const error = el("p", { class: "error", id: `${name}-error`, hidden: true });
  const told = hint === undefined ? null : el("p", { class: "hint", id: `${name}-hint` }, hint);
  const ids = told === null ? error.id : `${told.id} ${error.id}`;
  control.setAttribute("aria-describedby", ids);
  root.append(...(told === null ? [error] : [told, error]));
  return (text) => {
    error.hidden = text === null;
    setText(error, text ?? "");
    const inputs = control.matches("input, textarea, select") ? [control] : control.querySelectorAll("input");
    for (const input of inputs) {
      if (text === null) input.removeAttribute("aria-invalid");
      else input.setAttribute("aria-invalid", "true");
    }
  };
}

function single(name, label, input, facts) {
  input.id = `field-${name}`;
  const root = el("div", { class: `field field-${name}` }, el("label", { for: input.id }, label));
  root.append(input);
  const error = frame(name, input, root, facts);
  const get = () => input.value.trim();
  return { name, root, input, own: "", get, set: (text) => { input.value = text; }, error, focus: () => input.focus() };
}

/** Some lines of text. */
export function lines(name, label, schema, { rows, placeholder, hint }) {
  const input = el("textarea", { name, rows, placeholder, maxlength: schema.maxLength, autocomplete: "off" });
  return single(name, label, input, { hint });
}

/** A number within the bounds of the schema; empty for the bundle's own. */
export function number(name, label, schema, { placeholder, hint, step = 1 }) {
  const { minimum: min, maximum: max } = schema;
  const input = el("input", { name, type: "number", inputmode: "decimal", min, max, step, placeholder });
  const field = single(name, label, input, { hint });
  return { ...field, wrong: () => (input.validity.badInput ? "Expected a number." : null) };
}

/** A whole number of any length, as text: seeds are longer than numbers of JavaScript are exact. */
export function digits(name, label, { placeholder, hint }) {
  const input = el("input", { name, inputmode: "numeric", autocomplete: "off", maxlength: 19, placeholder });
  const field = single(name, label, input, { hint });
  return { ...field, wrong: () => (/^\d*$/.test(field.get()) ? null : "Expected digits only.") };
}

/** One of some values in a list; the first stands for the bundle's own. */
export function choice(name, label, values, { first, hint }) {
  const input = el("select", { name });
  if (first !== undefined) input.append(el("option", { value: "" }, first));
  for (const [value, text] of values) input.append(el("option", { value }, text));
  const field = single(name, label, input, { hint });
  const own = first === undefined ? values[0][0] : "";
  const has = (text) => values.some(([value]) => value === text);
  return {
    ...field,
    own,
    get: () => (input.value === own ? "" : input.value),
    set: (text) => { input.value = has(text) ? text : own; },
  };
}

/** One of a few values, side by side; `own` is the one that holds if nothing is chosen. */
export function buttons(name, label, values, { own, hint }) {
  const root = el("fieldset", { class: `field field-${name}` }, el("legend", {}, label));
  const row = el("div", { class: "segments" });
  for (const [value, text, small] of values) {
    const input = el("input", { type: "radio", name, value, checked: value === own });
    const told = small === undefined ? null : el("small", {}, small);
    row.append(el("label", {}, input, el("span", {}, text, told)));
  }
  root.append(row);
  const error = frame(name, root, root, { hint });
  const inputs = [...row.querySelectorAll("input")];
  const chosen = () => inputs.find((input) => input.checked)?.value ?? own;
  const set = (text) => {
    const value = values.some(([one]) => one === text) ? text : own;
    for (const input of inputs) input.checked = input.value === value;
  };
  const focus = () => inputs.find((input) => input.checked)?.focus();
  return { name, root, own, get: () => (chosen() === own ? "" : chosen()), chosen, set, error, focus };
}

/** Width and height in pixels; both empty for the bundle's own. */
export function sides(name, label, own, multiple, { hint }) {
  const root = el("fieldset", { class: `field field-${name}` }, el("legend", {}, label));
  const [wide, high] = own.split("x");
  const facts = { type: "number", inputmode: "numeric", min: multiple, step: multiple };
  const side = (what, placeholder) => el("input", { ...facts, placeholder, "aria-label": what });
  const inputs = [side("Width in pixels", wide), side("Height in pixels", high)];
  root.append(el("div", { class: "sides" }, inputs[0], el("span", { "aria-hidden": "true" }, "×"), inputs[1]));
  const error = frame(name, root, root, { hint });
  const get = () => {
    const values = inputs.map((input) => input.value.trim() || input.placeholder);
    return values.join("x") === own ? "" : values.join("x");
  };
  const set = (text) => {
    const match = /^(\d{1,5})x(\d{1,5})$/.exec(text === own ? "" : text);
    inputs.forEach((input, i) => { input.value = match?.[i + 1] ?? ""; });
  };
  const wrong = () => (inputs.some((input) => input.validity.badInput) ? "Expected numbers." : null);
  return { name, root, own, get, set, error, wrong, focus: () => inputs[0].focus() };
}
