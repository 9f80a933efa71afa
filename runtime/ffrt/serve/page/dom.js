// Elements of the page. Text from outside is always textContent: nothing here reads markup from a string.

const SVG = "http://www.w3.org/2000/svg";

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/** A new element: attributes by name, functions as listeners of "onclick" and the like, children as nodes or text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A picture on a button, drawn in the colour of its text; it says nothing to a screen reader. */
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const BIN = "M2.5 4h11M6 4V2.5h4V4M4 4l.7 9.5h6.6L12 4M6.8 6.5v4.5M9.2 6.5v4.5";

/** Set a text only if it changed, so that a selection in it and a screen reader are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tell a screen reader, without moving anything. */
export function tell(text) {
  setText(byId("status"), text);
}

/** Let a button do one thing at a time: while `work` runs, more presses do nothing. It keeps the focus. */
export async function once(button, work) {
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await work();
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

let answered = () => {};

/** Ask before something that cannot be taken back; whether the answer is yes. */
export function sure(heading, text, yes) {
  const dialog = byId("confirm");
  answered(false); // the question before has been closed, and its event may come only after this one is open
  setText(byId("confirm-heading"), heading);
  setText(byId("confirm-text"), text);
  setText(byId("confirm-yes"), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    answered = resolve;
    dialog.onclose = () => {
      if (!dialog.open) resolve(dialog.returnValue === "yes");
    };
  });
}

/** Keeps the children of a list equal to items, of which `make` gives {root, update}. What stays is not touched. */
export class Rows {
  constructor(list, make) {
    this.list = list;
    this.make = make;
    this.rows = new Map();
  }

  show(items) {
    const wanted = new Set(items.map((item) => item.id));
    for (const [id, row] of this.rows) {
      if (!wanted.has(id)) {
        row.root.remove();
        this.rows.delete(id);
      }
    }
    let place = this.list.firstElementChild;
    for (const item of items) {
      if (!this.rows.has(item.id)) this.rows.set(item.id, this.make(item));
      const row = this.rows.get(item.id);
      row.update(item);
      if (row.root === place) place = place.nextElementSibling;
      else this.list.insertBefore(row.root, place);
    }
  }
}
