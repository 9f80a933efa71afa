// The form: fields that the server's schema and the card of its bundle offer, and what is wrong with them.

import * as api from "./api.js";
import { el, once, setText } from "./dom.js";
import { buttons, choice, digits, lines, number, sides } from "./fields.js";
import { picture } from "./picture.js";
import { ofField, refusal, size } from "./words.js";

const EXAMPLE = "a red circle moving right on a black background";
const GUIDED = "More follows the sentence more closely";

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const plain = (values) => values.map((value) => [value, capital(value)]);

/** The fields of a bundle, in two lists: those that are always seen, and the options. */
function fieldsOf(card, schema) {
  const steps = (preset) => `${card.defaults[preset].num_inference_steps} steps`;
  const presets = card.presets.map((preset) => [preset, capital(preset), steps(preset)]);
  const rates = card.fps.map((fps) => [String(fps), String(fps)]);
  const most = Math.floor(Math.sqrt(card.max_pixels) / card.size_multiple) * card.size_multiple;
  const first = card.defaults[card.presets[0]];
  const own = "The bundle’s own";
  const seen = [
    lines("prompt", "What should the video show?", schema.prompt, { rows: 3, placeholder: EXAMPLE }),
    card.takes_picture ? picture("input_reference", "Picture to begin with (optional)") : null,
    buttons("preset", "Preset", presets, { own: card.presets[0] }),
    buttons("fps", "Frames per second", rates, { own: String(card.default_fps) }),
  ];
  const options = [
    lines("negative_prompt", "What should it not show?", schema.negative_prompt, { rows: 2 }),
    sides("size", "Width and height", card.size, card.size_multiple, {
      hint: `Multiples of ${card.size_multiple} pixels. A square has sides of up to ${most}.`,
    }),
    digits("seed", "Seed", {
      placeholder: "drawn anew each time", hint: "The same seed and options give the same video.",
    }),
    number("num_inference_steps", "Steps", { ...schema.num_inference_steps, maximum: card.max_steps }, {
      placeholder: first.num_inference_steps,
    }),
    number("guidance_scale", "Guidance", schema.guidance_scale, {
      placeholder: first.guidance_scale, hint: `${GUIDED}; ${card.guidance.split(": ").at(-1)}.`, step: "any",
    }),
    number("interpolation_guidance_scale", "Guidance in between keyframes", schema.interpolation_guidance_scale, {
      placeholder: own, step: "any",
    }),
    choice("sampler", "Sampler", card.samplers.map((name) => [name, name]), { first: `${own}, ${first.sampler}` }),
    card.takes_picture
      ? choice("motion", "Motion", plain(["low", "medium", "high", "extreme"]), { first: own, hint: "How much moves." })
      : null,
    card.takes_picture
      ? number("image_guidance_scale", "Guidance of the picture", schema.image_guidance_scale, {
        placeholder: own, step: "any",
      })
      : null,
    choice("output_format", "File", card.output_formats.map((name) => [name, name]), {}),
  ];
  const offered = (field) => field !== null && field.name in schema;
  return [seen.filter(offered), options.filter(offered)];
}

export class Form extends EventTarget {
  constructor(root, card, schema) {
    super();
    this.root = root;
    this.card = card;
    const [seen, options] = fieldsOf(card, schema);
    this.fields = [...seen, ...options];
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.button = el("button", { type: "submit", class: "main" }, "Make video");
    this.length = el("p", { class: "quiet length" });
    this.more = el("details", {}, el("summary", {}, "More options"));
    this.more.append(el("div", { class: "options" }, ...options.map((field) => field.root)));
    root.replaceChildren(...seen.map((field) => field.root), this.more, this.error, this.button, this.length);
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    root.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.submit();
    });
    root.addEventListener("input", () => this.changed());
    this.changed();
  }

  field(name) {
    return this.fields.find((field) => field.name === name);
  }

  /** What differs from the bundle's own, by field. */
  values() {
    return new Map(this.fields.map((field) => [field.name, field.get()]).filter(([, value]) => value !== ""));
  }

  /** Show these values, and the bundle's own elsewhere; those that the form has no place for, as words. */
  restore(values) {
    for (const field of this.fields) field.set(values.get(field.name) ?? "");
    this.clear();
    const has = ([name, value]) => {
      const field = this.field(name);
      return field !== undefined && (field.get() || field.own) === value;
    };
    const lost = [...values].filter((pair) => !has(pair)).map(([name, value]) => `${name} ${value}`);
    this.more.open ||= this.fields.some((field) => field.get() !== "" && this.more.contains(field.root));
    this.changed();
    return lost;
  }

  /** Say that the picture of an earlier video has to be chosen again. */
  wantPicture() {
    this.field("input_reference")?.error("That video began with a picture, which is not kept. Choose it again.");
  }

  changed() {
    const fps = this.field("fps").chosen();
    const own = this.card.defaults[this.field("preset").chosen()];
    setText(this.length, `${this.card.seconds[fps]} s, ${size(this.field("size").get() || this.card.size)} pixels`);
    this.field("num_inference_steps").input.placeholder = own.num_inference_steps;
    this.field("sampler").input.options[0].textContent = `The bundle’s own, ${own.sampler}`;
    this.dispatchEvent(new Event("change"));
  }

  clear() {
    this.say(null);
    for (const field of this.fields) field.error(null);
  }

  say(text) {
    this.error.hidden = text === null;
    setText(this.error, text ?? "");
  }

  submit() {
    return once(this.button, () => this.send());
  }

  async send() {
    this.clear();
    const wrong = this.fields.map((field) => [field, field.wrong?.() ?? null]).filter(([, text]) => text !== null);
    if (this.field("prompt").get() === "") wrong.unshift([this.field("prompt"), "Type what the video should show."]);
    if (wrong.length > 0) {
      for (const [field, text] of wrong) field.error(text);
      this.show(wrong[0][0]);
      return;
    }
    const file = this.field("input_reference")?.file() ?? null;
    const values = [...this.values(), ...(file === null ? [] : [["input_reference", file]])];
    setText(this.button, "Sending…");
    try {
      this.dispatchEvent(new CustomEvent("made", { detail: await api.create(values) }));
    } catch (error) {
      this.refused(error);
    } finally {
      setText(this.button, "Make video");
    }
  }

  refused(error) {
    const field = error.status === 400 || error.status === 404 ? this.field(error.param) : undefined;
    if (field === undefined) {
      this.say(refusal(error));
      this.dispatchEvent(new CustomEvent("refused", { detail: error }));
      return;
    }
    field.error(ofField(error.message));
    this.show(field);
  }

  show(field) {
    if (this.more.contains(field.root)) this.more.open = true;
    field.focus();
  }
}
