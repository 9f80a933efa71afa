// News of videos: event streams of the next two that are made, and the list for all others.
//
// A browser keeps six connections to a server, of all its tabs together, so a stream for every video would leave none
// for anything else. A page that nobody sees has no stream.

import * as api from "./api.js";

const STREAMS = 2;
const PAGE = 24;
const REST_MS = { streamed: 10_000, watching: 2_000, idle: 20_000, lost: 3_000, ending: 3_000 };

export class Live extends EventTarget {
  constructor(videos) {
    super();
    this.videos = videos;
    this.shown = null;
    this.streams = new Map();
    this.refusedUntil = new Map();
    this.state = "ok";
    this.timer = null;
  }

  /** Begin; it goes on until the page is left. */
  start() {
    document.addEventListener("visibilitychange", () => this.look());
    addEventListener("online", () => this.look());
    this.videos.addEventListener("change", () => this.choose());
    return this.look();
  }

  /** Ask for the list now, and again after a rest. */
  async look() {
    clearTimeout(this.timer);
    this.choose();
    const was = this.state;
    try {
      const { ending } = was === "ending" ? await api.session() : { ending: false };
      await this.ask();
      if (!ending && this.state === was) this.say("ok");
    } catch (error) {
      if (this.failed(error)) return;
    }
    this.choose();
    this.lookAfter(this.rest());
  }

  lookAfter(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), ms);
  }

  /** Say what an error means for the connection; whether nothing more can be asked. */
  failed(error) {
    if (error.status === 0 || error.status >= 500) this.say("lost");
    if (error.status === 401) this.dispatchEvent(new Event("unknown"));
    return error.status === 401;
  }

  /** This video, or null for none, is looked at: it has a stream before others, and is asked for if it is not known. */
  async show(id) {
    this.shown = id;
    this.videos.missing = null;
    try {
      await this.find();
    } catch (error) {
      if (!this.failed(error)) this.lookAfter(this.rest());
    }
  }

  /** Ask for the video that is shown, if no list has told of it. Only the server's 404 says that there is none. */
  async find() {
    const id = this.shown;
    if (id === null || this.videos.get(id) !== null || this.videos.missing === id) return;
    try {
      const video = await api.show(id);
      if (this.shown === id) this.videos.found(video);
    } catch (error) {
      if (error.status !== 404) throw error;
      if (this.shown === id) this.videos.miss(id);
    }
  }

  /** The page of the list after the last video that is known. */
  async more() {
    this.videos.older(await this.page(() => this.videos.order.at(-1)));
  }

  /** A page of the list that knows of all that was queued and deleted here. */
  async page(after) {
    for (;;) {
      const { changes } = this.videos;
      const page = await api.page(PAGE, after());
      if (changes === this.videos.changes) return page;
    }
  }

  async ask() {
    const page = await this.page(() => undefined);
    this.videos.newest(page);
    const here = new Set(page.data.map((video) => video.id));
    for (const { id } of this.videos.active()) {
      if (here.has(id) || this.streams.has(id)) continue;
      try {
        this.videos.put(await api.show(id));
      } catch (error) {
        if (error.status !== 404) throw error;
        this.videos.remove(id);
      }
    }
    await this.find();
  }

  rest() {
    if (this.state !== "ok") return REST_MS[this.state];
    const active = this.videos.active();
    if (active.length === 0) return REST_MS.idle;
    return document.hidden || active.every(({ id }) => this.streams.has(id)) ? REST_MS.streamed : REST_MS.watching;
  }

  /** Open the streams that are wanted now, and close the others. A server that ends has none to give. */
  choose() {
    const rank = (one) => [one.id !== this.shown, one.state !== "in_progress", one.queue_position ?? 0].map(Number);
    const before = (a, b) => rank(a).map((value, i) => value - rank(b)[i]).find((less) => less !== 0) ?? 0;
    for (const [id, until] of this.refusedUntil) if (until < Date.now()) this.refusedUntil.delete(id);
    const isQuiet = document.hidden || this.state === "ending";
    const may = this.videos.active().filter(({ id }) => !this.refusedUntil.has(id));
    const wanted = new Set(isQuiet ? [] : may.sort(before).slice(0, STREAMS).map(({ id }) => id));
    for (const id of [...this.streams.keys()]) if (!wanted.has(id)) this.close(id);
    for (const id of wanted) if (!this.streams.has(id)) this.open(id);
  }

  open(id) {
    const stream = api.events(id);
    this.streams.set(id, stream);
    this.videos.streamed.add(id);
    const told = (event) => this.told(id, api.parsed(event.data));
    for (const name of ["queued", "progress", "completed", "failed"]) stream.addEventListener(name, told);
    stream.addEventListener("preview", (event) => {
      const { url, stage, step } = JSON.parse(event.data);
      this.videos.preview(id, `${url.replace(/^\//, "")}?${new URLSearchParams({ stage, step })}`);
    });
    stream.addEventListener("shutdown", () => {
      this.say("ending");
      this.choose();
      this.lookAfter(this.rest());
    });
    stream.addEventListener("open", () => this.say("ok"));
    stream.addEventListener("error", () => this.lost(id, stream));
  }

  told(id, video) {
    this.videos.put(video);
    if (video.state !== "queued" && video.state !== "in_progress") this.close(id);
  }

  /** A stream broke. The browser opens it again, unless the server refused it: then the list has to do. */
  lost(id, stream) {
    if (this.streams.get(id) !== stream) return;
    if (stream.readyState === EventSource.CLOSED) this.refuse(id);
    this.lookAfter(500); // perhaps it only came to its end
  }

  refuse(id) {
    this.refusedUntil.set(id, Date.now() + REST_MS.streamed);
    this.close(id);
  }

  close(id) {
    this.streams.get(id)?.close();
    this.streams.delete(id);
    this.videos.streamed.delete(id);
  }

  say(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
