// Scrubbing: other moments of a video over its thumbnail, by mouse, by finger and by arrow keys.

import { content } from "./api.js";
import { el } from "./dom.js";

const SLOP_PX = 8;

/** The sheet of a video: {bitmap, columns, rows}; the server says how its frames lie. */
async function fetchSheet(id) {
  const response = await fetch(content(id, "spritesheet"));
  const grid = /^(\d+)x(\d+)$/.exec(response.headers.get("x-spritesheet") ?? "");
  if (!response.ok || grid === null) return null;
  return { bitmap: await createImageBitmap(await response.blob()), columns: Number(grid[1]), rows: Number(grid[2]) };
}

/** Let `link`, which shows the thumbnail of `video`, be scrubbed. */
export function scrub(link, video) {
  const canvas = el("canvas", { hidden: true, "aria-hidden": "true" });
  const bar = el("span", { class: "moment", hidden: true });
  link.append(canvas, bar);
  let sheet = null; // a promise, once somebody looks
  let count = 1;
  let at = Math.floor(count / 2);
  let touched = null;

  const draw = ({ bitmap, columns, rows }) => {
    const [width, height] = [bitmap.width / columns, bitmap.height / rows];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const [left, top] = [(at % columns) * width, Math.floor(at / columns) * height];
    canvas.getContext("2d").drawImage(bitmap, left, top, width, height, 0, 0, width, height);
    canvas.dataset.moment = at;
    bar.style.transform = `scaleX(${(at + 1) / count})`;
    canvas.hidden = bar.hidden = false;
  };
  const load = () => {
    sheet ??= fetchSheet(video.id).catch(() => null).then((loaded) => {
      if (loaded === null) {
        sheet = null;
      } else if (count === 1) {
        count = Math.min(loaded.columns * loaded.rows, video.num_frames);
        at = Math.floor(count / 2);
      }
      return loaded;
    });
    return sheet;
  };
  const show = async (choose) => {
    const loaded = await load();
    if (loaded === null) return;
    at = Math.min(count - 1, Math.max(0, choose()));
    draw(loaded);
  };
  const hide = () => { canvas.hidden = bar.hidden = true; };
  const under = (event) => {
    const box = link.getBoundingClientRect();
    return () => Math.floor(((event.clientX - box.left) / box.width) * count);
  };

  link.addEventListener("pointerenter", load);
  link.addEventListener("focus", load);
  link.addEventListener("blur", hide);
  link.addEventListener("pointerleave", hide);
  link.addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "mouse" ? null : { x: event.clientX, moved: false };
  });
  link.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") {
      if (touched === null || (!touched.moved && Math.abs(event.clientX - touched.x) < SLOP_PX)) return;
      touched.moved = true;
    }
    show(under(event));
  });
  link.addEventListener("click", (event) => {
    if (touched?.moved) { // the end of a movement, and no tap
      event.preventDefault();
      event.stopImmediatePropagation();
    }
    touched = null;
  });
  link.addEventListener("dragstart", (event) => event.preventDefault());
  const keys = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => count - 1 };
  link.addEventListener("keydown", (event) => {
    const choose = keys[event.key];
    if (choose === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    show(choose);
  });
}
