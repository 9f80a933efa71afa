// The picture that a video begins with, for bundles that follow one: chosen or dropped. No address is fetched.

import { el, setText } from "./dom.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

/** A field as those of fields.js, whose value is a file. */
export function picture(name, label) {
  const facts = { type: "file", accept: KINDS.join(), "aria-describedby": `${name}-error` };
  const input = el("input", { ...facts, id: `field-${name}` });
  const shown = el("img", { alt: "The picture to begin with", hidden: true });
  const remove = el("button", { type: "button", class: "plain", hidden: true }, "Remove picture");
  const error = el("p", { class: "error", id: `${name}-error`, hidden: true });
  const words = el("p", { class: "hint" }, "PNG, JPEG or WebP. Choose a file, or drop one here.");
  const told = el("label", { for: input.id }, label);
  const root = el("div", { class: "field picture" }, told, input, shown, remove, words, error);
  let file = null;

  const tell = (text) => {
    error.hidden = text === null;
    setText(error, text ?? "");
    if (text === null) input.removeAttribute("aria-invalid");
    else input.setAttribute("aria-invalid", "true");
  };
  const take = (chosen) => {
    if (chosen !== null && !KINDS.includes(chosen.type)) {
      tell("Expected a PNG, JPEG or WebP.");
      return;
    }
    tell(null);
    if (shown.src !== "") URL.revokeObjectURL(shown.src);
    file = chosen;
    if (file === null) {
      input.value = "";
      shown.removeAttribute("src");
    } else {
      shown.src = URL.createObjectURL(file);
    }
    shown.hidden = remove.hidden = file === null;
    root.dispatchEvent(new Event("input", { bubbles: true }));
  };

  input.addEventListener("change", () => take(input.files[0] ?? null));
  remove.addEventListener("click", () => {
    take(null);
    input.focus();
  });
  root.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("over");
  });
  for (const end of ["dragleave", "drop"]) root.addEventListener(end, () => root.classList.remove("over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length > 0) take(event.dataTransfer.files[0]);
  });
  return { name, root, file: () => file, get: () => "", set: () => {}, error: tell, focus: () => input.focus() };
}
