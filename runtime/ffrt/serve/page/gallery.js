// The gallery: videos that have ended, newest first, page by page.

import { content } from "./api.js";
import { BIN, byId, el, icon, once, Rows, setText, tell } from "./dom.js";
import { scrub } from "./scrub.js";
import * as words from "./words.js";

export class Gallery {
  /** `show(event, id)` shows a video, `remove(video)` asks and deletes, `more()` fetches the next page. */
  constructor(videos, { show, remove, more, onRefused }) {
    this.videos = videos;
    this.show = show;
    this.remove = remove;
    this.rows = new Rows(byId("gallery-list"), (video) => this.card(video));
    videos.addEventListener("change", () => this.update());
    byId("more").addEventListener("click", ({ currentTarget }) => once(currentTarget, async () => {
      const before = videos.order.length;
      try {
        await more();
        tell(`${videos.order.length - before} more videos`);
      } catch (error) {
        onRefused(error);
      }
    }));
  }

  update() {
    const ended = this.videos.all().filter((video) => !words.isActive(video));
    byId("gallery-empty").hidden = ended.length > 0 || !this.videos.isLoaded;
    byId("more").hidden = !this.videos.hasMore;
    this.rows.show(ended);
  }

  card(video) {
    const link = el("a", { href: `#v=${video.id}`, class: "thumb" });
    const prompt = el("p", { class: "prompt" });
    setText(prompt, video.prompt);
    if (words.hasFile(video)) {
      link.append(el("img", { src: content(video.id, "thumbnail"), alt: video.prompt, loading: "lazy" }));
      link.setAttribute("aria-describedby", "scrub-help");
      scrub(link, video);
    } else {
      link.append(el("span", { class: "none" }, words.stage(video)));
      link.setAttribute("aria-label", `${video.prompt.slice(0, 120)}: ${words.stage(video)}`);
    }
    link.addEventListener("click", (event) => this.show(event, video.id));
    const bin = el("button", { type: "button", class: "bin", "aria-label": `Delete: ${video.prompt.slice(0, 80)}` });
    bin.append(icon(BIN));
    bin.addEventListener("click", () => this.remove(video));
    const below = el("div", { class: "below" }, prompt, bin);
    const root = el("li", {}, link, below);
    const update = (now) => {
      const isShown = now.id === this.shown;
      root.classList.toggle("chosen", isShown);
      if (isShown) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    };
    return { root, update };
  }

  /** Mark the card of the video that is shown. */
  mark(id) {
    this.shown = id;
    this.update();
  }

  /** After a card has gone: the focus goes on to the next one, or to the heading. */
  focusAfter(id) {
    const links = [...byId("gallery-list").querySelectorAll("a.thumb")];
    const place = links.findIndex((link) => link.getAttribute("href") === `#v=${id}`);
    const next = links[place + 1] ?? links[place - 1] ?? null;
    return () => (next?.isConnected ? next : byId("gallery-heading")).focus();
  }
}
