// What the page says, in one place: stages, times, sizes and errors for people.

const STAGES = {
  text: "Reading the prompt",
  "first frame": "Making the first frame",
  keyframes: "Making keyframes",
  interpolation: "Filling in between keyframes",
  decoding: "Decoding frames",
};

export const isActive = (video) => video.state === "queued" || video.state === "in_progress";
export const isExpired = (video) => video.expires_at !== null && video.expires_at * 1000 <= Date.now();
export const hasFile = (video) => video.state === "completed" && !isExpired(video);

/** Where a video stands, without its steps: what a screen reader is told when it changes. */
export function stage(video) {
  if (video.state === "queued") {
    return video.queue_position === 1 || video.queue_position === null
      ? "Next in the queue"
      : `Number ${video.queue_position} in the queue`;
  }
  if (video.state === "in_progress") return video.stage === null ? "Starting" : (STAGES[video.stage] ?? video.stage);
  if (video.state === "cancelled") return "Cancelled";
  if (video.state === "failed") return "Not made";
  return isExpired(video) ? "Not kept any more" : "Done";
}

/** The step of a stage, empty where there is none. */
export function step(video) {
  if (video.state !== "in_progress" || video.step === null || video.steps === null || video.steps < 2) return "";
  return `${video.stage === "decoding" ? "frame" : "step"} ${video.step} of ${video.steps}`;
}

/** The time that is left, empty where it is not known. */
export function left(seconds) {
  if (seconds === null || seconds === undefined) return "";
  return seconds < 1.5 ? "almost done" : `about ${duration(seconds)} left`;
}

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds < 90) return `${seconds < 10 ? Math.round(seconds) : 5 * Math.round(seconds / 5)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export function bytes(count) {
  return count < 1e6 ? `${Math.max(1, Math.round(count / 1e3))} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export const size = (text) => text.replace("x", " × ");

/** The facts of a video in a line. */
export function facts(video) {
  return [
    size(video.size),
    `${Number(video.duration_s.toFixed(1))} s`,
    `${video.fps} fps`,
    `${video.num_inference_steps} steps`,
    video.sampler,
    `guidance ${video.guidance_scale}`,
    `seed ${video.seed}`,
    ...(video.bytes === null ? [] : [bytes(video.bytes)]),
  ];
}

/** A name for a downloaded file: what it shows and what made it. */
export function fileName(video) {
  const words = video.prompt.normalize("NFKD").toLowerCase().match(/[a-z0-9]+/g) ?? ["video"];
  let name = "";
  for (const word of words) {
    if (name.length + word.length > 60) break;
    name += name === "" ? word : `-${word}`;
  }
  return `${name === "" ? "video" : name}-seed-${video.seed}.${video.output_format}`;
}

/** A message of the server for the place beside its field: without the field's name, and as a sentence. */
export function ofField(message) {
  const text = message.replace(/^[\w.[\]-]+:\s*/, "");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** What a full disk means for what was asked. */
const FULL = {
  create: "nothing was queued. Delete videos to make room.",
  cancel: "the video goes on. Try again when there is room.",
  remove: "nothing was deleted. Try again when there is room.",
};

/** Why something was not done, and what to do about it. */
export function refusal(error) {
  const soon = error.wait === null || error.wait === undefined ? "a moment" : duration(error.wait);
  if (error.status === 0) return "The server cannot be reached. Try again in a moment; nothing is made twice.";
  if (error.status === 401) return "Your session has ended. Log in again.";
  if (error.code === "queue_full") return "The queue is full. Try again when a video is done, or cancel one.";
  if (error.status === 429) return `There were too many requests in a short time. Try again in ${soon}.`;
  if (error.status === 507) return `The disk of the server is full, so ${FULL[error.asked] ?? "nothing was done."}`;
  if (error.code === "draining") return `The server is about to restart. Try again in ${soon}.`;
  if (error.status === 503) return `The server is not ready. Try again in ${soon}.`;
  if (error.code === "origin_not_allowed") {
    return "The server takes no requests from this address. Behind a proxy with TLS it needs --forwarded-allow-ips.";
  }
  if (error.status === 413) return "That is more than the server takes. Choose a smaller picture or a shorter text.";
  return ofField(error.message);
}

/** Why a video was not made. */
export function failure(video) {
  if (video.state === "cancelled") return "Cancelled before it was done.";
  if (isExpired(video)) return "The file was kept for its time and is gone. It can be made again.";
  return video.error === null ? "It was not made." : ofField(video.error.message);
}
