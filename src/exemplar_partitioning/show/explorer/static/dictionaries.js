// Which dictionaries there are, in words; and which of them belong together.

export const describe = (d) => (d.site ? `${d.site} p${d.percentile}` : d.key);
export const named = (d) => `${d.build}: ${describe(d)}`;
export const several = (all) => new Set(all.dictionaries.map((d) => d.build)).size > 1;

// Dictionaries of the same build, itself among them; and of these, those of the same site.
export function mates(all, key) {
  const here = all.dictionaries.find((d) => d.key === key);
  return all.dictionaries.filter((d) => here?.site && d.site && d.build === here.build);
}
export const levels = (all, key) => mates(all, key).filter((d) => d.site === all.dictionaries.find((each) => each.key === key).site);

// Dictionaries of the same place in several blocks, at the same percentile; itself alone where it has no block.
export function blocks(all, key) {
  const place = (d) => `${d.site.slice(0, d.site.lastIndexOf("."))} ${d.percentile}`;
  const [here, near] = [all.dictionaries.find((d) => d.key === key), mates(all, key)];
  return near.filter((d) => place(d) === place(here));
}
