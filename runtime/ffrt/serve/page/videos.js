// What the page knows of the videos: their order, newest first, and the newest word on each.

import { isActive } from "./words.js";

export class Videos extends EventTarget {
  constructor() {
    super();
    this.order = [];
    this.known = new Map();
    this.previews = new Map();
    this.gone = new Set();
    this.streamed = new Set();
    this.made = 0;
    this.hasMore = false;
    this.isLoaded = false;
  }

  get(id) {
    return this.known.get(id) ?? null;
  }

  /** All in their order. */
  all() {
    return this.order.map((id) => this.known.get(id));
  }

  active() {
    return [...this.known.values()].filter(isActive);
  }

  /** The newest page of the list: what is new comes in front, what was deleted elsewhere goes. */
  newest(page) {
    const ids = this.keep(page);
    const last = this.order.indexOf(page.last_id);
    const isLater = page.has_more && last < 0; // so much is new that the rest is asked for again
    const older = page.has_more && !isLater ? this.order.slice(last + 1) : [];
    if (!isLater) {
      const here = new Set([...ids, ...older]);
      for (const id of this.order) if (!here.has(id)) this.forget(id);
    }
    if (older.length === 0) this.hasMore = page.has_more;
    this.order = [...ids, ...older];
    this.isLoaded = true;
    this.changed();
  }

  /** The page after the last that is known. */
  older(page) {
    const ids = this.keep(page);
    this.order = [...this.order.filter((id) => !ids.includes(id)), ...ids];
    this.hasMore = page.has_more;
    this.changed();
  }

  /** One that was queued just now. `made` counts them: a list that was asked for before does not know it. */
  add(video) {
    this.made += 1;
    if (!this.order.includes(video.id)) this.order.unshift(video.id);
    this.put(video);
  }

  /** The newest word on one. */
  put(video) {
    if (this.gone.has(video.id)) return;
    this.known.set(video.id, video);
    if (!isActive(video)) this.previews.delete(video.id);
    this.changed();
  }

  /** Where the newest preview of a video is. */
  preview(id, url) {
    this.previews.set(id, url);
    this.changed();
  }

  /** It was deleted: late words on it do nothing. */
  remove(id) {
    this.gone.add(id);
    this.forget(id);
    this.order = this.order.filter((one) => one !== id);
    this.changed();
  }

  keep(page) {
    const here = page.data.filter((video) => !this.gone.has(video.id));
    for (const video of here) if (!this.isOlder(video)) this.known.set(video.id, video);
    return here.map((video) => video.id);
  }

  /** Whether a word of a list is older than what is known: an end is the last word, and a stream is ahead of lists. */
  isOlder(video) {
    const known = this.known.get(video.id);
    return known !== undefined && isActive(video) && (!isActive(known) || this.streamed.has(video.id));
  }

  forget(id) {
    this.known.delete(id);
    this.previews.delete(id);
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}
