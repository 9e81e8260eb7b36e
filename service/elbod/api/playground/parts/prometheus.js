// Prometheus text, and what can be said of two readings of it.

/** Samples by metric name: [{labels, value}]. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return found;
}

const fits = (labels, wanted) => Object.entries(wanted).every(([name, value]) => labels[name] === value);

/** The sum of a metric's samples with these labels. */
export const total = (reading, name, wanted = {}) =>
  (reading.get(name) ?? []).filter(({ labels }) => fits(labels, wanted)).reduce((all, { value }) => all + value, 0);

/** The values that a label takes. */
export const valuesOf = (reading, name, label) => [...new Set((reading.get(name) ?? []).map(({ labels }) => labels[label]))].sort();

/** How much a counter grew; after a restart what it has now. */
export function growth(before, after, name, wanted = {}) {
  const [from, to] = [total(before, name, wanted), total(after, name, wanted)];
  return to < from ? to : to - from;
}

/** A quantile of what a histogram saw between two readings, by linear interpolation in its bucket; NaN if nothing. */
export function quantile(before, after, name, wanted, q) {
  const bounds = [...new Set((after.get(`${name}_bucket`) ?? []).filter(({ labels }) => fits(labels, wanted)).map(({ labels }) => labels.le))]
    .sort((a, b) => Number(a.replace("+Inf", "Infinity")) - Number(b.replace("+Inf", "Infinity")));
  const counts = bounds.map((le) => growth(before, after, `${name}_bucket`, { ...wanted, le }));
  const all = counts.at(-1) ?? 0;
  if (!all) return NaN;
  const i = counts.findIndex((count) => count >= q * all);
  const low = i > 0 ? Number(bounds[i - 1]) : 0;
  if (bounds[i] === "+Inf") return low;
  const under = i > 0 ? counts[i - 1] : 0;
  return low + (Number(bounds[i]) - low) * ((q * all - under) / (counts[i] - under || 1));
}
