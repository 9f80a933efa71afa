// The page of `ffrt serve`: joins the parts. What each does is said in its own file.

import * as address from "./address.js";
import * as api from "./api.js";
import { byId, setText, sure, tell } from "./dom.js";
import { Form } from "./form.js";
import { Gallery } from "./gallery.js";
import { Jobs } from "./jobs.js";
import { Live } from "./live.js";
import { logIn, showWho } from "./session.js";
import { Videos } from "./videos.js";
import { Viewer } from "./viewer.js";
import * as words from "./words.js";

const CONNECTION = {
  ok: "",
  lost: "Connection lost. Trying again…",
  ending: "The server is restarting. What waits is kept.",
};
const RETRY_MS = 3000;
const ASKED = [
  "num_inference_steps", "guidance_scale", "image_guidance_scale", "interpolation_guidance_scale", "sampler", "motion",
  "cache_interval", "guidance_interval",
];

/** What asks for the same video again, as the form's fields. */
function valuesOf(video) {
  const named = ["prompt", "fps", "size", "seed", "negative_prompt", "preset", "output_format"];
  const pairs = [...named.map((name) => [name, video[name]]), ...ASKED.map((name) => [name, video.asked[name]])];
  return new Map(pairs.filter(([, value]) => value !== null).map(([name, value]) => [name, String(value)]));
}

function showConnection(state) {
  const line = byId("connection");
  const was = line.textContent;
  setText(line, CONNECTION[state]);
  line.hidden = state === "ok";
  if (was !== line.textContent) tell(state === "ok" ? "Connected again." : CONNECTION[state]);
}

/** The answer of `work`, which is tried until the server is there. */
async function insisting(work) {
  for (;;) {
    try {
      const answer = await work();
      showConnection("ok");
      return answer;
    } catch (error) {
      if (error.status !== 0 && error.status < 500 && error.status !== 429) throw error;
      showConnection("lost");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function main() {
  const { keys, name } = await insisting(api.session);
  if (keys && name === null) await logIn();
  showWho(keys ? (name ?? (await insisting(api.session)).name) : null);
  const [card, schema] = await insisting(() => Promise.all([api.model(), api.schema()]));
  setText(byId("about"), `${card.id} · ${words.size(card.size)} · ${card.seconds[card.default_fps]} s`);
  byId("work").hidden = false;
  run(card, schema);
}

function run(card, schema) {
  const videos = new Videos();
  const form = new Form(byId("form"), card, schema);
  let shown = null;

  let ended = null;
  const unknown = () => {
    ended ??= logIn("Your session has ended. Log in again to go on.").then(() => location.reload());
  };
  const refused = (error) => {
    if (error.status === 401) unknown();
    else form.say(words.refusal(error));
    tell(words.refusal(error));
  };
  const show = (id, { isStep = true } = {}) => {
    shown = id;
    address.write(form.values(), id, isStep);
    viewer.show(id);
    gallery.mark(id);
    live.show(id);
  };
  const clicked = (event, id) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab
    event.preventDefault();
    show(id);
    byId("shown").scrollIntoView({ block: "nearest" });
    byId("shown-heading").focus({ preventScroll: true });
  };
  const queued = (video) => {
    videos.add(video);
    tell(`Queued: ${video.prompt.slice(0, 60)}`);
    show(video.id);
    byId("shown").scrollIntoView({ block: "nearest" });
  };
  const again = async (video, isOtherSeed) => {
    if (video.asked.picture) return edit(video); // chosen again by hand
    const values = valuesOf(video);
    if (isOtherSeed) values.delete("seed");
    form.clear();
    queued(await api.create([...values]));
  };
  const edit = (video) => {
    const lost = form.restore(valuesOf(video));
    if (lost.length > 0) form.say(`The form does not offer all that this video asked for: ${lost.join(", ")}.`);
    form.field("prompt").focus();
    if (video.asked.picture) form.wantPicture();
  };
  const remove = async (video) => {
    if (!(await sure("Delete this video?", video.prompt, "Delete"))) return;
    const focus = gallery.focusAfter(video.id);
    try {
      await api.remove(video.id);
    } catch (error) {
      if (error.status !== 404) return refused(error);
    }
    videos.remove(video.id);
    tell("Deleted.");
    if (viewer.id === video.id) show(null);
    focus();
  };

  const viewer = new Viewer(videos, { again, edit, remove, onRefused: refused });
  const live = new Live(videos);
  const gallery = new Gallery(videos, { show: clicked, remove, more: () => live.more(), onRefused: refused });
  new Jobs(videos, clicked, refused);
  const restore = () => {
    const { values, id } = address.read();
    form.restore(values);
    show(id, { isStep: false });
  };
  restore();
  form.addEventListener("made", (event) => queued(event.detail));
  form.addEventListener("refused", ({ detail }) => (detail.status === 401 ? unknown() : null));
  form.addEventListener("change", () => address.write(form.values(), shown, false));
  address.onChange((isOwn) => (isOwn ? show(address.read().id, { isStep: false }) : restore()));
  live.addEventListener("unknown", unknown);
  live.addEventListener("state", () => showConnection(live.state));
  live.start().then(() => {
    if (shown !== null) return show(shown, { isStep: false });
    const first = videos.active()[0] ?? videos.all()[0];
    if (first === undefined) return show(null, { isStep: false });
    viewer.show(first.id); // the address names only what somebody chose
    gallery.mark(first.id);
  });
}

main().catch((error) => {
  const line = byId("connection");
  setText(line, `The page could not start: ${error.message}`);
  line.hidden = false;
});
