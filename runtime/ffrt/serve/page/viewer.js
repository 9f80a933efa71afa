// The video that is shown: its picture while it is made, its player when it is done, and what can be done with it.

import * as api from "./api.js";
import * as address from "./address.js";
import { byId, el, once, setText, tell } from "./dom.js";
import { progress, stopper } from "./jobs.js";
import * as words from "./words.js";

const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Viewer {
  /** `again(video, isOtherSeed)`, `edit(video)` and `remove(video)` are what the buttons do. */
  constructor(videos, { again, edit, remove, onRefused }) {
    this.videos = videos;
    this.actions = { again, edit, remove };
    this.onRefused = onRefused;
    this.id = null;
    this.drawn = null;
    this.fresh = new Set(); // made while somebody looked: these play by themselves
    this.root = byId("shown");
    this.body = el("div", { class: "body" });
    this.root.append(this.body);
    videos.addEventListener("change", () => this.update());
  }

  show(id) {
    this.id = id;
    this.update();
  }

  /** Draw what the state of the video asks for; within one state only texts and pictures change. */
  update() {
    const video = this.id === null ? null : this.videos.get(this.id);
    if (video !== null && words.isActive(video)) this.fresh.add(video.id);
    for (const id of this.fresh) if (this.videos.get(id) === null) this.fresh.delete(id);
    const none = this.id === null ? "empty" : this.videos.missing === this.id ? "missing" : "unknown";
    const kind = video === null ? none : words.isActive(video) ? "active" : video.state;
    const drawn = `${this.id} ${kind} ${video !== null && words.isExpired(video)}`;
    if (drawn !== this.drawn) {
      const hadFocus = this.body.contains(document.activeElement);
      this.drawn = drawn;
      this.refresh = null;
      this.body.replaceChildren(...this.draw(kind, video));
      if (hadFocus) byId("shown-heading").focus({ preventScroll: true });
    }
    this.refresh?.(video);
  }

  draw(kind, video) {
    if (kind === "empty") {
      const how = el("p", { class: "quiet" }, "Describe one and press “Make video”.");
      return [this.frame(null, el("p", {}, "Your video appears here."), how)];
    }
    if (kind === "unknown") return [this.frame(null, el("p", { class: "quiet" }, "The video is looked for."))];
    if (kind === "missing") {
      return [this.frame(null, el("p", {}, "There is no video at this address. It may have been deleted."))];
    }
    const prompt = el("p", { class: "prompt" });
    setText(prompt, video.prompt);
    const not = video.negative_prompt === null ? null : el("p", { class: "quiet" }, `Not: ${video.negative_prompt}`);
    const facts = el("ul", { class: "facts" }, ...words.facts(video).map((fact) => el("li", {}, fact)));
    const text = [prompt, ...(not === null ? [] : [not])];
    if (kind === "active") return [this.underWay(video), ...text, facts];
    const warnings = video.warnings.map((warning) => el("p", { class: "warning" }, warning));
    return [this.ended(video), ...text, facts, ...warnings, this.buttons(video)];
  }

  frame(video, ...children) {
    const box = el("div", { class: "media" }, ...children);
    const [width, height] = (video?.size ?? "16x9").split("x").map(Number);
    box.style.aspectRatio = `${width} / ${height}`;
    return box;
  }

  underWay(video) {
    const picture = el("img", { alt: "What the video looks like so far", hidden: true });
    const wait = el("p", { class: "quiet" });
    const dots = el("div", { class: "dots", "aria-hidden": "true" }, el("i"), el("i"), el("i"));
    const bar = progress();
    const stop = stopper(this.videos, video.id, this.onRefused);
    this.refresh = (now) => {
      const preview = this.videos.previews.get(now.id);
      if (preview !== undefined && picture.getAttribute("src") !== preview) picture.src = preview;
      picture.hidden = preview === undefined;
      wait.hidden = dots.hidden = preview !== undefined;
      setText(wait, now.state === "queued" ? "It waits for its turn." : "The first picture comes in a moment.");
      bar.update(now);
    };
    return el("div", {}, this.frame(video, picture, dots, wait), el("div", { class: "under-way" }, bar.root, stop));
  }

  ended(video) {
    if (!words.hasFile(video)) {
      return this.frame(null, el("p", {}, words.stage(video)), el("p", { class: "quiet" }, words.failure(video)));
    }
    const source = api.content(video.id);
    if (video.output_format === "gif") return this.frame(video, el("img", { src: source, alt: video.prompt }));
    const player = el("video", {
      src: source, poster: api.content(video.id, "thumbnail"), preload: "metadata",
      controls: true, loop: true, muted: true, playsinline: true, "aria-label": video.prompt.slice(0, 200),
    });
    player.muted = true;
    const broken = el("p", { class: "quiet", hidden: true }, "This browser cannot play it. It can be downloaded.");
    player.addEventListener("error", () => {
      player.hidden = true;
      broken.hidden = false;
    });
    if (this.fresh.delete(video.id) && !still.matches) player.autoplay = true;
    return this.frame(video, player, broken);
  }

  buttons(video) {
    const button = (text, onclick, kind = "plain") => el("button", { type: "button", class: kind, onclick }, text);
    const again = (isOtherSeed) => ({ currentTarget }) =>
      once(currentTarget, () => this.actions.again(video, isOtherSeed).catch(this.onRefused));
    const download = words.hasFile(video)
      ? el("a", { class: "plain button", href: api.content(video.id) }, "Download")
      : null;
    download?.addEventListener("click", (event) => this.download(event, video));
    return el(
      "div", { class: "actions" },
      button("Again with another seed", again(true), "second"),
      download,
      button("Copy link", () => this.copy(video.id)),
      button("Again", again(false), "text"),
      button("Edit", () => this.actions.edit(video), "text"),
      button("Delete", () => this.actions.remove(video), "text last"),
      el("p", { class: "copied quiet", hidden: true }),
    );
  }

  /** Save the file under a name of its own: of a link, browsers take the name that the server sent. */
  async download(event, video) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const link = event.currentTarget;
    await once(link, async () => {
      try {
        const url = URL.createObjectURL(await api.file(video.id));
        el("a", { href: url, download: words.fileName(video) }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
      } catch (error) {
        this.onRefused(error);
      }
    });
  }

  async copy(id) {
    const link = address.linkTo(id);
    const told = this.body.querySelector(".copied");
    const isCopied = await address.copy(link);
    setText(told, isCopied ? "The link was copied." : link);
    told.hidden = false;
    tell(isCopied ? "The link was copied." : `The link: ${link}`);
  }
}
