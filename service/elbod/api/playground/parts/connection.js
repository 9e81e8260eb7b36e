// Whether the server is there: a line that says so while it is not, and a look every few seconds until it is again.

import { events, readiness } from "./api.js";

const HEARTBEAT = 4000;
const FIRST_RETRY = 500;
const LAST_RETRY = 8000;

/** `recovered` is called once the server answers again after it did not. */
export function watchConnection(line, recovered) {
  let down = false;
  let timer = 0;
  let retry = FIRST_RETRY;

  function say(text) {
    if (line.textContent !== text) line.textContent = text;
    line.hidden = !text;
  }

  function later(wait) {
    clearTimeout(timer);
    timer = setTimeout(look, wait);
  }

  function lost(text) {
    if (!down) retry = FIRST_RETRY;
    down = true;
    say(text);
    later(retry);
    retry = Math.min(retry * 2, LAST_RETRY);
  }

  async function look() {
    if (document.hidden && !down) return later(HEARTBEAT);
    let state;
    try {
      state = await readiness();
    } catch {
      return lost("The server does not answer. This page tries again by itself.");
    }
    if (!state.ready) {
      const why = state.problems.join(" ");
      return lost(state.draining ? "The server is shutting down." : `The server is not ready yet. ${why}`.trim());
    }
    say(state.problems.join(" "));
    if (down) {
      down = false;
      recovered();
    }
    return later(HEARTBEAT);
  }

  events.addEventListener("lost", () => { if (!down) lost("The server does not answer. This page tries again by itself."); });
  later(HEARTBEAT);
}
