// Numbers for people: few digits, a real minus sign, units.

const sign = (text) => text.replace("-", "−");

/** A number with `digits` after the point; a dash for one that is not there. */
export function plain(value, digits = 2) {
  return value === null || value === undefined || !Number.isFinite(value) ? "–" : sign(value.toFixed(digits));
}

/** A number with three digits that matter. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  return sign(size >= 5 || size < -4 ? value.toExponential(1) : value.toFixed(Math.max(0, 2 - Math.max(size, 0))));
}

/** A value with its error, in nats. */
export const nats = (value, error = null, digits = 2) =>
  `${plain(value, digits)}${error === null || !Number.isFinite(error) ? "" : ` ± ${plain(error, digits)}`} nats`;

export const bytes = (count) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, count > 0 ? Math.floor(Math.log10(count) / 3) : 0);
  return `${(count / 1000 ** power).toFixed(power ? 1 : 0)} ${units[power]}`;
};

export const seconds = (value) => {
  if (!Number.isFinite(value)) return "–";
  return value < 1 ? `${short(value * 1000)} ms` : `${short(value)} s`;
};

/** Ticks at round numbers that cover low ... high. */
export function ticks(low, high, count = 4) {
  const rough = (high - low || 1) / count;
  const base = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * base).find((candidate) => candidate >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(tick);
  return found;
}

/** The text of a tick: as few digits as its neighbours need. */
export function tickText(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : Math.abs(value) || 1;
  if (Math.abs(value) < step * 1e-6) return "0";
  if (Math.abs(value) >= 1e5) return sign(value.toExponential(0));
  let digits = 0;
  while (digits < 6 && Math.abs(step * 10 ** digits - Math.round(step * 10 ** digits)) > 1e-6) digits += 1;
  return sign(value.toFixed(digits));
}

export const sum = (values) => values.reduce((total, value) => total + value, 0);

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
