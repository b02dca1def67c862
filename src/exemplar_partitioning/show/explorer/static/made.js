// Of which regions a token is made, and what the next token hangs on.

import { regionPage } from "./api.js";
import { fixed, h, percent, table, token, visible } from "./dom.js";

// One bar a token: as long as what the regions make up of its squared length, parted by weight; the rest is left.
export function madeOf(key, made, hue) {
  return table(
    "Of what tokens are made",
    [
      ["Token", (each) => token(each.text), ""],
      ["Made of", (each) => bar(key, each, made.regions, hue), "grow"],
      ["Left", (each) => percent(each.left === null ? null : each.left ** 2), "num"],
    ],
    made.tokens,
    { class: "small" },
  );
}

// Parts of a token as links, as wide as their share.
export function bar(key, each, regions, hue) {
  const sum = each.weights.reduce((a, b) => a + Math.abs(b), 0);
  const parts = each.regions.map((region, i) => {
    const weight = each.weights[i] / each.norm;
    const share = (Math.abs(each.weights[i]) / sum) * (1 - each.left ** 2);
    const title = `region ${region}: ${visible(regions[region].label)}; weight ${fixed(weight, 2)} of the length`;
    return h("a", { href: regionPage(key, region), title, "aria-label": title, style: { "--hue": hue(region), width: `${100 * share}%` } }, h("bdi", {}, visible(regions[region].label)));
  });
  return h("span", { class: "made" }, parts);
}

export function hangsOn(key, { attribution, regions }) {
  const [likely, next] = attribution.target;
  return [
    h("p", {}, "Next comes ", token(likely), " rather than ", token(next), `: its logit is ${fixed(attribution.difference, 2)} higher. It would fall without a region at a token by`),
    table(
      "What the next token hangs on",
      [
        ["At", (each) => each.token, "num"],
        ["Token", (each) => token(attribution.tokens[each.token]), ""],
        ["Region", (each) => h("a", { href: regionPage(key, each.region) }, each.region), "num"],
        ["Predicted", (each) => fixed(each.predicted, 2), "num"],
        ["Measured", (each) => fixed(each.measured, 2), "num"],
        ["Label", (each) => h("bdi", { class: "label" }, visible(regions[each.region].label)), "grow"],
      ],
      attribution.effects,
      { class: "small" },
    ),
    h("p", { class: "dim" }, `predicted for all regions ${fixed(attribution.regions, 2)}, for what they leave ${fixed(attribution.errors, 2)}`),
  ];
}
