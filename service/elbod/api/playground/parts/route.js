// The address of what is shown: #area?name=value&..., so that every view is a link.

const AREAS = ["sample", "explore", "score", "models", "service"];

/** The area and the parameters in the address. */
export function read() {
  const [area, query = ""] = location.hash.slice(1).split("?", 2);
  return { area: AREAS.includes(area) ? area : AREAS[0], params: new URLSearchParams(query) };
}

const written = (area, params) => `#${area}${String(params) ? `?${params}` : ""}`;

/** Another area: the browser's back button returns. */
export function go(area, params) {
  if (location.hash !== written(area, params)) history.pushState(null, "", written(area, params));
}

/** The same area, other parameters. Those that are null are left out. */
export function note(changes) {
  const { area, params } = read();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") params.delete(name);
    else params.set(name, value);
  }
  history.replaceState(null, "", written(area, params));
}

/** A whole link to an area. */
export function link(area, values) {
  const url = new URL(location.href);
  url.hash = written(area, new URLSearchParams(Object.entries(values).filter(([, v]) => v !== null && v !== "")));
  return url.href;
}
