// Which dictionaries there are, in words; and which of them belong together.

export const describe = (d) => (d.site ? `${d.site} p${d.percentile}` : d.key);
export const named = (d) => `${d.build}: ${describe(d)}`;
export const several = (all) => new Set(all.dictionaries.map((d) => d.build)).size > 1;

// Dictionaries of the same site and build, itself among them.
export function levels(all, key) {
  const here = all.dictionaries.find((d) => d.key === key);
  return all.dictionaries.filter((d) => here?.site && d.site === here.site && d.build === here.build);
}
