// One token: of which regions it is made, which it is near to, and where it lies in every dictionary of the build.

import { page, regionPage } from "../api.js";
import { describe, mates } from "../dictionaries.js";
import { fixed, h, notice, percent, put, section, table, token, visible } from "../dom.js";
import { far } from "../heat.js";
import { onKey } from "../keys.js";
import { bar } from "../made.js";
import { ask, line, origin } from "../passage.js";

export default async function render(main, { key, all }) {
  document.title = "Token";
  const asked = new URLSearchParams(location.search);
  const answer = await ask(key, asked, "token");
  if (!answer) {
    put(main, h("h1", {}, "Token"), notice("Which token? Choose one on the live page, or an example on a region's page."));
    return;
  }
  const text = answer.tokens[answer.at];
  document.title = `Token ${visible(text)}`;
  const link = asked.get("text") ? (i) => page(key, `/token?${new URLSearchParams({ text: asked.get("text"), at: i })}`) : null;
  put(main, h("h1", {}, "Token ", token(text)), line(answer, link), origin(key, answer), notice(answer.caveat), notice(answer.why_not));
  if (!answer.made) return;
  put(main, h("div", { class: "columns" }, made(key, answer), nearest(key, answer)), mates(all, key).length > 1 && elsewhere(key, asked, answer.at));
  const known = link ? answer.known.flatMap((is, i) => (is ? [i] : [])) : [answer.at];
  const move = (step) => () => {
    const to = known[known.indexOf(answer.at) + step];
    if (to !== undefined) location.assign(link(to));
  };
  onKey("n", move(1));
  onKey("p", move(-1));
}

function made(key, { made: parts, regions }) {
  const [hue, held] = [far(), 1 - parts.left ** 2];
  const rows = parts.regions.map((region, i) => ({ region, weight: parts.weights[i] }));
  const strip = put(bar(key, parts, regions, hue), h("span", { class: "left", style: { width: `${100 * parts.left ** 2}%` } }, `${percent(parts.left ** 2)} left`));
  const words = `${rows.length} ${rows.length === 1 ? "region makes" : "regions make"} up ${percent(held)} of its squared length from the centre; ${percent(parts.left ** 2)} are left.`;
  const columns = [
    ["Region", (row) => h("a", { href: regionPage(key, row.region) }, row.region), "num"],
    ["", (row) => h("span", { class: "swatch", style: { "--hue": hue(row.region) } }), ""],
    ["Label", (row) => h("bdi", { class: "label" }, visible(regions[row.region].label)), "grow"],
    ["Weight", (row) => fixed(row.weight / parts.norm, 2), "num"],
  ];
  return section("Made of", h("p", {}, words), strip, table("Regions it is made of", columns, rows, { class: "small" }), h("p", { class: "dim" }, "weights in its length from the centre, in the order picked by matching pursuit"));
}

function nearest(key, { nearest: rows, regions, threshold }) {
  const columns = [
    ["Region", (row) => h("a", { href: regionPage(key, row.region) }, row.region), "num"],
    ["Label", (row) => h("bdi", { class: "label" }, visible(regions[row.region].label)), "grow"],
    ["Distance", (row) => fixed(row.distance), "num"],
    ["Within θ", (row) => (row.distance <= threshold ? "yes" : "no"), "wide"],
  ];
  return section("Nearest regions", h("p", { class: "dim" }, `The first is the region that it belongs to; θ = ${fixed(threshold, 4)}.`), table("Nearest regions", columns, rows, { class: "small" }));
}

// Dictionaries are opened for it, which may take a while.
function elsewhere(key, asked, at) {
  const place = h("div", { "aria-live": "polite" }, h("p", { class: "dim" }, "opening every dictionary ..."));
  const label = (row, regions) => visible(regions[row.key][row.regions[at]].label);
  const columns = (regions) => [
    ["Dictionary", (row) => (row.key === key ? h("b", {}, describe(row)) : h("a", { href: page(row.key, asked.get("text") ? `/token?${asked}` : "") }, describe(row))), "name"],
    ["Region", (row) => h("a", { href: regionPage(row.key, row.regions[at]) }, row.regions[at]), "num"],
    ["Label", (row) => h("bdi", { class: "label" }, label(row, regions)), "grow"],
    ["Distance", (row) => fixed(row.distances[at]), "num"],
    ["Within θ", (row) => (row.distances[at] <= row.threshold ? "yes" : "no"), "wide"],
  ];
  ask(key, asked, "stack").then(
    ({ rows, regions }) => place.replaceChildren(table("In every dictionary of this build", columns(regions), rows, { class: "small" })),
    (error) => place.replaceChildren(notice(error.message, "error")),
  );
  return section("In every dictionary of this build", place, h("p", {}, h("a", { href: page(key, `/stack?${asked}`) }, "all tokens in all of them")));
}
