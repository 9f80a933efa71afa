// Logging in and out, where the server asks for keys. The key is sent once, in a header, and kept nowhere.

import * as api from "./api.js";
import { byId, setText } from "./dom.js";
import { refusal } from "./words.js";

function say(text) {
  const [key, error] = [byId("key"), byId("key-error")];
  error.hidden = text === null;
  setText(error, text ?? "");
  if (text === null) key.removeAttribute("aria-invalid");
  else key.setAttribute("aria-invalid", "true");
}

/** Ask for a key until one is right. */
export function logIn(why = null) {
  const [view, form, key] = [byId("log-in"), byId("log-in-form"), byId("key")];
  if (why !== null) setText(byId("log-in-why"), why);
  byId("work").hidden = true;
  view.hidden = false;
  key.focus();
  return new Promise((resolve) => {
    form.onsubmit = async (event) => { // and no listener beside that of an earlier log-in
      event.preventDefault();
      say(null);
      try {
        await api.logIn(key.value.trim());
        key.value = "";
        view.hidden = true;
        resolve();
      } catch (error) {
        say(error.status === 401 ? "The server does not know this key." : refusal(error));
        key.focus();
      }
    };
  });
}

/** Show who is logged in, with a way out. */
export function showWho(name) {
  byId("who").hidden = name === null;
  setText(byId("name"), name ?? "");
  byId("log-out").addEventListener("click", async () => {
    try {
      await api.logOut();
    } finally {
      history.replaceState(null, "", location.pathname); // a prompt is for its owner alone
      location.reload();
    }
  });
}
