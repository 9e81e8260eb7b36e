// Many wishes, one request at a time: the newest wish is the next one, those in between are never sent.

/**
 * `work(wish)` is run for the first wish at once, and again with the newest that came meanwhile.
 * `failed` gets what it throws.
 */
export function latest(work, failed) {
  let running = false;
  let waiting = null;
  return async function ask(wish) {
    waiting = { wish };
    if (running) return;
    running = true;
    while (waiting) {
      const next = waiting;
      waiting = null;
      try {
        await work(next.wish);
      } catch (error) {
        if (error.name !== "AbortError" && !waiting) failed(error);
      }
    }
    running = false;
  };
}
