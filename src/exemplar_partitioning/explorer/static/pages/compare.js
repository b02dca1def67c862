// Two dictionaries side by side; for each region of the first, the nearest of the second.

import { get, page, regionPage } from "../api.js";
import { count, fixed, h, notice, percent, put, section, table, visible } from "../dom.js";
import { bars, plot } from "../plots.js";
import { ENDS } from "./start.js";

const PAGE = 100;

export default async function render(main, { all }) {
  document.title = "Compare";
  const whole = all.dictionaries.filter((d) => !d.error);
  const asked = new URLSearchParams(location.search);
  const first = asked.get("a") ?? whole[0]?.key;
  const second = asked.get("b") ?? (whole.find((d) => d.key !== first) ?? whole[0])?.key;
  const choose = (name, chosen) =>
    h("label", {}, `${name.toUpperCase()} `, h("select", { name }, whole.map((d) => h("option", { value: d.key, selected: d.key === chosen }, `${d.build}: ${d.site} p${d.percentile}`))));
  const form = h("form", { class: "bar", action: "/compare" }, choose("a", first), choose("b", second));
  const go = () => location.assign(`/compare?${new URLSearchParams(new FormData(form))}`);
  form.addEventListener("change", go);
  const swap = h("button", { type: "button", onclick: () => location.assign(`/compare?${new URLSearchParams({ a: second, b: first })}`) }, "Swap");
  form.append(swap);
  const waiting = h("p", { class: "dim" }, "comparing ...");
  put(main, h("h1", {}, "Compare"), form, waiting);
  const question = { a: first, b: second, desc: asked.get("desc") ?? "1", offset: asked.get("offset") ?? "0" };
  const c = await get("compare", { ...question, limit: PAGE }).finally(() => waiting.remove());
  put(main, figures(c));
  if (c.matches) put(main, ...matches(c, question));
  else put(main, notice(c.why_not));
}

const ROWS = [
  ["model", (d) => d.model],
  ["site", (d) => d.site],
  ["percentile", (d) => d.percentile],
  ["threshold θ", (d) => `${fixed(d.threshold, 4)} ± ${d.spread.toPrecision(2)}`],
  ["regions", (d) => count(d.k)],
  ["d_model", (d) => count(d.d_model)],
  ["text", (d) => d.text],
  ["activations", (d) => `${count(d.n_activations)}, until ${ENDS[d.stopped]}`],
  ["unseen mass", (d) => `${percent(d.unseen.estimate)} (${percent(d.unseen.low)} to ${percent(d.unseen.high)})`],
  ["largest region", (d) => `${count(d.largest)} ${d.size_is}`],
  ["empty regions", (d) => count(d.empty)],
  ["coverage", (d) => percent(d.coverage)],
  ["effective regions", (d) => (d.effective === null ? "–" : count(Math.round(d.effective)))],
  ["Gini of sizes", (d) => fixed(d.gini)],
  ["cohesion", (d) => fixed(d.quality?.cohesion)],
  ["separation ratio", (d) => fixed(d.quality?.separation_ratio)],
  ["silhouette", (d) => fixed(d.quality?.silhouette)],
];

const name = (d) => h("a", { href: page(d.key) }, `${d.build}: ${d.site} p${d.percentile}`);

function figures({ a, b }) {
  const shown = table("Key numbers", [["", (row) => row[0], "dim nowrap"], [h("span", {}, "A · ", name(a)), (row) => row[1](a), ""], [h("span", {}, "B · ", name(b)), (row) => row[1](b), ""]], ROWS, { class: "figures" });
  return section("Key numbers", shown, [a, b].map((d) => notice(d.not_annotated)));
}

function matches(c, question) {
  const { matches: m, a, b } = c;
  const words =
    `Cosine of each of ${count(m.total)} exemplars of A with the nearest of B: mean ${fixed(m.mean)}, median ${fixed(m.median)}; ` +
    `${percent(m.within)} within θ of B, ${percent(m.same)} the same exemplar. They meet ${count(m.used)} of ${count(b.k)} regions of B.`;
  const { start, width, counts } = m.histogram;
  const side = (key, which) => (pair) => [h("a", { href: regionPage(key, pair[which].region) }, pair[which].region), " ", h("bdi", { class: "label" }, visible(pair[which].label))];
  const last = Math.max(1, Math.ceil(m.total / PAGE));
  const at = Math.floor(m.offset / PAGE) + 1;
  const link = (text, change) => h("a", { href: `/compare?${new URLSearchParams({ ...question, ...change })}` }, text);
  return [
    section("Nearest regions", notice(c.caveat), plot("Cosine to the nearest of B", words, () => ({
      data: [bars(counts, start, width, "%{y:,} regions at %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>")],
      x: ["cosine", { range: [Math.min(0, start), 1] }],
      y: ["regions of A", {}],
    }))),
    h("p", { class: "bar" }, question.desc === "1" ? link("least similar first", { desc: "0", offset: "0" }) : link("most similar first", { desc: "1", offset: "0" })),
    table("For each region of A the nearest of B", [["A", side(a.key, "a"), "half"], ["B", side(b.key, "b"), "half"], ["cosine", (pair) => fixed(pair.cosine), "num"]], m.pairs),
    h("nav", { class: "pages", "aria-label": "Pages of the list" }, at > 1 ? link("‹ previous", { offset: m.offset - PAGE }) : null, ` page ${count(at)} of ${count(last)} `, at < last ? link("next ›", { offset: m.offset + PAGE }) : null),
  ];
}
