// What the page knows of the videos: their order, newest first, and the newest word on each.

import { isActive } from "./words.js";

export class Videos extends EventTarget {
  constructor() {
    super();
    this.order = [];
    this.known = new Map();
    this.previews = new Map();
    this.streamed = new Set();
    this.changes = 0;
    this.extra = null;
    this.missing = null;
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

  /** One that was queued just now. `changes` counts them: a list that was asked for before does not know it. */
  add(video) {
    this.changes += 1;
    if (!this.order.includes(video.id)) this.order.unshift(video.id);
    this.know(video);
    this.changed();
  }

  /** The newest word on one that is known: a late word on one that was deleted does nothing. */
  put(video) {
    if (!this.known.has(video.id)) return;
    this.know(video);
    this.changed();
  }

  /** The one that is shown and that no list has told of. The one before it is forgotten. */
  found(video) {
    if (this.extra !== null && !this.order.includes(this.extra)) this.forget(this.extra);
    this.extra = video.id;
    if (!this.isOlder(video)) this.know(video);
    this.changed();
  }

  /** The server has no video of that id. */
  miss(id) {
    this.missing = id;
    this.changed();
  }

  /** Where the newest preview of a video is. */
  preview(id, url) {
    if (!this.known.has(id)) return;
    this.previews.set(id, url);
    this.changed();
  }

  /** It was deleted: a list that was asked for before is too old. */
  remove(id) {
    this.changes += 1;
    this.forget(id);
    this.order = this.order.filter((one) => one !== id);
    this.changed();
  }

  keep(page) {
    for (const video of page.data) if (!this.isOlder(video)) this.know(video);
    return page.data.map((video) => video.id);
  }

  know(video) {
    this.known.set(video.id, video);
    if (!isActive(video)) this.previews.delete(video.id);
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
