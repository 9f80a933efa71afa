// What the page asks of the server. Addresses are relative, so that a proxy may serve it under a path.

/** An answer that is no success. `status` is 0 where there was no answer, `param` the field at fault,
 *  `asked` what was to be done: "create", "cancel", "remove" or null. */
export class Refusal extends Error {
  constructor(status, error, wait, asked = null) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.param = error.param;
    this.wait = wait;
    this.asked = asked;
  }
}

/** JSON with seeds as text: they go to 2^63 - 1, and numbers of JavaScript are exact to 2^53 - 1. */
export function parsed(text) {
  return JSON.parse(text.replace(/"seed":\s*(\d+)/g, '"seed":"$1"'));
}

async function ask(method, path, { body, headers, as = "text", asked = null } = {}) {
  let response, answer;
  try {
    response = await fetch(path, { method, body, headers, credentials: "same-origin" });
    answer = await (response.ok ? response[as]() : response.text());
  } catch {
    throw new Refusal(0, { message: "The server cannot be reached.", code: "unreachable", param: null }, null, asked);
  }
  if (response.ok) return as === "blob" ? answer : answer === "" ? null : parsed(answer);
  const wait = Number(response.headers.get("retry-after")) || null;
  throw new Refusal(response.status, errorIn(answer, response), wait, asked);
}

function errorIn(text, response) {
  try {
    const { error } = JSON.parse(text);
    if (typeof error.message === "string") return error;
  } catch {
    // a proxy's own page
  }
  return { message: `The server answered with ${response.status}.`, code: null, param: null };
}

/** A name that nobody used before; `randomUUID` is there on https and localhost only. */
function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const session = () => ask("GET", "session");

/** Log in with a key. A header holds no other signs than those of ASCII, and no key has any. */
export async function logIn(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) throw new Refusal(401, { message: "", code: "invalid_api_key", param: null }, null);
  await ask("POST", "session", { headers: { authorization: `Bearer ${key}` } });
}

export const logOut = () => ask("DELETE", "session");

/** The card of the bundle that is served. */
export const model = async () => (await ask("GET", "v1/models")).data[0];

/** The fields of a request to create a video, as the server's own schema has them. */
export async function schema() {
  const whole = await ask("GET", "openapi.json");
  return whole.paths["/v1/videos"].post.requestBody.content["multipart/form-data"].schema.properties;
}

/** A page of videos, newest first. */
export function page(limit, after) {
  const query = new URLSearchParams({ limit });
  if (after !== undefined) query.set("after", after);
  return ask("GET", `v1/videos?${query}`);
}

export const show = (id) => ask("GET", `v1/videos/${id}`);
export const cancel = (id) => ask("POST", `v1/videos/${id}/cancel`, { asked: "cancel" });
export const remove = (id) => ask("DELETE", `v1/videos/${id}`, { asked: "remove" });

let unanswered = { text: null, name: null };

/** Queue a video. The same values after a lost answer go with the same name, so that they make no second video. */
export async function create(values) {
  const text = JSON.stringify(values.map(([field, value]) => [field, value.name ?? value, value.lastModified ?? 0]));
  const name = text === unanswered.text ? unanswered.name : randomName();
  unanswered = { text: null, name: null };
  const body = new FormData();
  for (const [field, value] of values) body.append(field, value);
  try {
    return await ask("POST", "v1/videos", { body, headers: { "idempotency-key": name }, asked: "create" });
  } catch (error) {
    if (error.status === 0) unanswered = { text, name };
    throw error;
  }
}

/** Where a file or a picture of a video is. */
export function content(id, variant = "video") {
  return variant === "video" ? `v1/videos/${id}/content` : `v1/videos/${id}/content?variant=${variant}`;
}

/** The file of a video, whole. */
export const file = (id) => ask("GET", content(id), { as: "blob" });

/** The events of a video; the browser sends the session's cookie with it. */
export const events = (id) => new EventSource(`v1/videos/${id}/events`);
