// The list of videos that wait or are made: where each stands, how long it takes, its preview, and how to stop it.

import * as api from "./api.js";
import { byId, el, once, Rows, setText, tell } from "./dom.js";
import * as words from "./words.js";

/** A bar and the words below it: {root, update}. */
export function progress() {
  const bar = el("progress", { max: 100, "aria-label": "Progress" });
  const stage = el("span", { class: "stage" });
  const rest = el("span", { class: "quiet" });
  const root = el("div", { class: "progress" }, bar, el("p", { class: "at" }, stage, rest));
  const update = (video) => {
    bar.value = video.progress;
    const step = words.step(video);
    setText(stage, step === "" ? words.stage(video) : `${words.stage(video)}, ${step}`);
    setText(rest, words.left(video.eta_s));
  };
  return { root, update };
}

/** A button that stops a video; the server waits up to ten seconds for the worker's word. */
export function stopper(videos, id, onRefused) {
  const button = el("button", { type: "button", class: "plain" }, "Cancel");
  button.addEventListener("click", () => once(button, async () => {
    setText(button, "Stopping…");
    try {
      videos.put(await api.cancel(id));
    } catch (error) {
      onRefused(error);
    } finally {
      setText(button, "Cancel");
    }
  }));
  return button;
}

/** Show where videos stand, and tell a screen reader when a stage begins, not when a step does. */
export class Jobs {
  constructor(videos, show, onRefused) {
    this.videos = videos;
    this.show = show;
    this.onRefused = onRefused;
    this.rows = new Rows(byId("job-list"), (video) => this.row(video));
    this.stages = new Map();
    videos.addEventListener("change", () => this.update());
  }

  update() {
    const active = this.videos.active();
    const order = new Map(this.videos.order.map((id, place) => [id, place]));
    active.sort((a, b) => (order.get(b.id) ?? Infinity) - (order.get(a.id) ?? Infinity));
    byId("jobs").hidden = active.length === 0;
    this.rows.show(active);
    this.announce();
    this.entitle(active);
  }

  row(video) {
    const link = el("a", { href: `#v=${video.id}`, class: "prompt" });
    const picture = el("img", { alt: "", hidden: true });
    const bar = progress();
    const stop = stopper(this.videos, video.id, this.onRefused);
    link.addEventListener("click", (event) => this.show(event, video.id));
    setText(link, video.prompt);
    stop.setAttribute("aria-label", `Cancel: ${video.prompt.slice(0, 80)}`);
    const thumb = el("div", { class: "thumb" }, picture);
    const root = el("li", { class: "job" }, thumb, el("div", {}, link, bar.root), stop);
    const update = (now) => {
      const preview = this.videos.previews.get(now.id);
      if (preview !== undefined && picture.getAttribute("src") !== preview) picture.src = preview;
      picture.hidden = preview === undefined;
      bar.update(now);
    };
    return { root, update };
  }

  announce() {
    const stages = new Map(); // of those that are known now: others are forgotten
    for (const video of this.videos.known.values()) {
      const now = `${video.state} ${video.stage}`;
      const before = this.stages.get(video.id);
      if (before !== undefined && before !== now) tell(`${video.prompt.slice(0, 60)}: ${words.stage(video)}`);
      stages.set(video.id, now);
    }
    this.stages = stages;
  }

  entitle(active) {
    const running = active.filter((video) => video.state === "in_progress");
    const share = running.length === 0 ? "" : `${Math.max(...running.map((video) => video.progress))} % · `;
    const title = active.length === 0 ? "ffrt" : `${share}${active.length} in progress · ffrt`;
    if (document.title !== title) document.title = title;
  }
}
