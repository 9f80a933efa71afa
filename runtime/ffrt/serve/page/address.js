// The state of the page in its address: what the form says, and which video is shown.

const SHOWN = "v";
const OWN = "ffrt";

/** The address now: a Map of the form's values, and the id of the video or null. */
export function read() {
  const pairs = new URLSearchParams(location.hash.slice(1));
  const id = pairs.get(SHOWN);
  pairs.delete(SHOWN);
  return { values: new Map(pairs), id: id !== null && /^video_[0-9a-f]{32}$/.test(id) ? id : null };
}

function hash(values, id) {
  const pairs = new URLSearchParams([...values]);
  if (id !== null) pairs.set(SHOWN, id);
  const text = pairs.toString();
  return text === "" ? location.pathname + location.search : `#${text}`;
}

/** Keep the form and the video in the address. Another video is a step that the back button takes back. */
export function write(values, id, isStep) {
  const wanted = hash(values, id);
  if (wanted === location.hash || (wanted[0] !== "#" && location.hash === "")) return;
  if (isStep) history.pushState(OWN, "", wanted);
  else history.replaceState(OWN, "", wanted);
}

/** The whole address of a video, to be sent to somebody. */
export function linkTo(id) {
  return new URL(`#${SHOWN}=${id}`, location.href).href;
}

/** Call back when the user goes to another address: `isOwn` if that is back or forward, where the form stays. */
export function onChange(listener) {
  addEventListener("popstate", ({ state }) => listener(state === OWN));
}

/** Copy a text; false where the browser does not let a page do that. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // a page that came by http from another machine
  }
}
