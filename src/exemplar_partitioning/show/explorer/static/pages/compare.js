// Two dictionaries side by side, and their regions matched.

import { get, page, patiently, post, regionPage } from "../api.js";
import { named } from "../dictionaries.js";
import { count, fixed, h, notice, percent, put, section, status, table, token, visible } from "../dom.js";
import { listing } from "../listing.js";
import { bars, mark, outline, plot } from "../plots.js";
import { ENDS } from "./start.js";

const CONTEXT = 48; // characters shown of the text before an exemplar

export default async function render(main, { all }) {
  document.title = "Compare";
  const whole = all.dictionaries.filter((d) => !d.error);
  const asked = new URLSearchParams(location.search);
  const a = asked.get("a") ?? whole[0]?.key;
  const b = asked.get("b") ?? partner(all, whole, a);
  put(main, h("h1", {}, "Compare"), choice(whole, a, b));
  const c = await get("compare", { a, b });
  put(main, figures(c));
  if (c.why_not) put(main, notice(c.why_not));
  else await matching(put(main, section("Matching", notice(c.caveat))).lastChild, c, { a, b });
}

// The same site and percentile of another build, if there is one, else any other.
function partner(all, whole, key) {
  const here = all.dictionaries.find((d) => d.key === key);
  const others = whole.filter((d) => d.key !== key);
  const alike = others.find((d) => d.build !== here?.build && d.site === here?.site && d.percentile === here?.percentile);
  return (alike ?? others.find((d) => d.build !== here?.build) ?? others[0] ?? whole[0])?.key;
}

function choice(whole, a, b) {
  const choose = (name, chosen) => h("label", {}, `${name.toUpperCase()} `, h("select", { name, "aria-label": `Dictionary ${name.toUpperCase()}` }, whole.map((d) => h("option", { value: d.key, selected: d.key === chosen }, named(d)))));
  const form = h("form", { class: "bar", action: "/compare" }, choose("a", a), choose("b", b));
  form.addEventListener("change", () => location.assign(`/compare?${new URLSearchParams(new FormData(form))}`));
  form.append(h("button", { type: "button", onclick: () => location.assign(`/compare?${new URLSearchParams({ a: b, b: a })}`) }, "Swap"));
  return form;
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
  ["missing mass", (d) => `${percent(d.unseen.estimate)} (${percent(d.unseen.low)} to ${percent(d.unseen.high)})`],
  ["largest region", (d) => `${count(d.largest)} ${d.size_is}`],
  ["empty regions", (d) => count(d.empty)],
  ["coverage", (d) => percent(d.coverage)],
  ["effective regions", (d) => (d.effective === null ? "–" : count(Math.round(d.effective)))],
  ["Gini of sizes", (d) => fixed(d.gini)],
  ["cohesion", (d) => fixed(d.quality?.cohesion)],
  ["separation ratio", (d) => fixed(d.quality?.separation_ratio)],
  ["silhouette", (d) => fixed(d.quality?.silhouette)],
];

const name = (d) => h("a", { href: page(d.key) }, named(d));

function figures({ a, b }) {
  const shown = table("Key numbers", [["", (row) => row[0], "dim nowrap"], [h("span", {}, "A · ", name(a)), (row) => row[1](a), ""], [h("span", {}, "B · ", name(b)), (row) => row[1](b), ""]], ROWS, { class: "figures" });
  return section("Key numbers", shown, [a, b].map((d) => notice(d.not_annotated)));
}

async function matching(place, c, both) {
  const m = await waited(place, c, both);
  if (!m) return;
  put(place, told(m, c), h("div", { class: "columns" }, histogram(m, "a", "b", c), histogram(m, "b", "a", c)));
  const list = pairs(m, both);
  put(place, h("h3", {}, "Pairs"), list.parts);
  await list.refresh();
}

// The matching; nothing, once it was stopped, but a button to begin anew.
async function waited(place, c, both) {
  const said = `Matching ${count(c.a.k)} regions with ${count(c.b.k)}`;
  const [words, bar] = [h("span", {}), h("progress", { max: 1, "aria-label": said })];
  let stopped = false;
  const stop = h("button", { type: "button" }, "Stop");
  const waiting = h("div", { class: "bar dim" }, words, bar, stop);
  stop.addEventListener("click", () => {
    stopped = true;
    post(`match/stop?${new URLSearchParams(both)}`, {});
    const again = () => (waiting.remove(), matching(place, c, both));
    waiting.replaceChildren(h("span", {}, `${said} was stopped.`), h("button", { type: "button", onclick: again }, "Begin anew"));
    status(`${said} was stopped`);
  });
  const wait = (seconds, share) => {
    if (stopped) return false;
    if (!waiting.isConnected) place.append(waiting);
    words.textContent = `${said}: ${percent(share)} in ${Math.round(seconds)} s; other pages work meanwhile, and it is kept.`;
    bar.value = share;
    return true;
  };
  status(said);
  const m = await patiently("match", both, wait).finally(() => stopped || waiting.remove());
  return stopped ? null : m;
}

function told(m, c) {
  const { pairs: paired, mean_cosine: mean, gap } = m.one_to_one;
  const sure = gap ? `at most ${gap.toFixed(4)} below the optimum` : "the optimum";
  const words = [
    `Each region of A with its nearest of B: ${percent(m.same)} have the same exemplar, ${percent(m.within)} lie within θ of B; they meet ${count(m.used)} of ${count(c.b.k)} regions of B. `,
    `One to one: ${count(paired)} pairs of mean cosine ${fixed(mean)}, ${sure}.`,
  ];
  const text = m.text
    ? `On ${count(m.text.aligned)} tokens of ${visible(m.text.source)} that both read, the partitions agree with adjusted Rand ${fixed(m.text.adjusted_rand)}.`
    : ["Members shared, and a stricter cutoff, need a text: ", h("code", {}, "ep match A B --text TEXT --out DIR"), ", then ", h("code", {}, "ep explore A B --match DIR"), "."];
  return [h("p", {}, words), h("p", { class: "dim" }, text)];
}

// Best matches one way, beside those without correspondence, and the cutoff that these give.
function histogram(m, from, to, c) {
  const back = `to_${to}`;
  const { start, width, counts, null: chance } = m.histograms[back];
  const [found, cutoff] = [m[`cosine_${back}`], m[`cutoff_${back}`]];
  const [names, k] = [[from, to].map((side) => side.toUpperCase()), c[from].k];
  const [reflections] = m.nulls;
  const verdict = from === "a" ? `${count(m.persisted)} persisted, ${count(m.dropped)} were dropped` : `${count(m.introduced)} are introduced`;
  const words =
    `Cosine of ${count(k)} regions of ${names[0]} with the nearest of ${names[1]} (bars): median ${fixed(found.median)}. ` +
    `Where nothing corresponds (line: ${names[1]} reflected along principal axes): median ${fixed(reflections[`cosine_${back}`].median)}. ` +
    `The cutoff, ${fixed(cutoff)}, is what ${percent(m.false_alarms)} of matches under ${m.decided_by} exceed: ${verdict}.`;
  const hover = "at %{customdata[0]:.2f} to %{customdata[1]:.2f}<extra></extra>";
  return plot(`${names[0]} in ${names[1]}`, words, () => ({
    data: [bars(counts, start, width, `%{y:,} regions ${hover}`), outline(chance, start, width, "%{y:,.1f} without correspondence<extra></extra>")],
    x: ["cosine", { range: [Math.min(0, start), 1] }],
    y: [`regions of ${names[0]}`, {}],
    ...mark(cutoff, "cutoff", cutoff < 0.85),
  }));
}

const SHOWN = ["all", "persisted", "dropped", "introduced"];
const COLUMNS = [
  ["a", "A", "num"],
  ["label_a", "Region of A", "half"],
  ["b", "B", "num"],
  ["label_b", "Region of B", "half"],
  ["cosine", "Cosine", "num"],
  ["distance", "Distance / θ", "num wide"],
  [null, "One to one", "num wide"],
  [null, "Verdict", "wide"],
];
const SHARED = [["jaccard", "Jaccard", "num wide"], ["f1", "F1", "num"]];

function pairs(m, both) {
  const columns = m.text ? COLUMNS.toSpliced(6, 0, ...SHARED) : COLUMNS;
  const sizes = { all: m.persisted + m.dropped + m.introduced, ...m };
  const buttons = SHOWN.map((show) => h("button", { type: "button", onclick: () => list.go({ show }) }, `${show} ${count(sizes[show])}`));
  const list = listing({
    what: "pairs",
    columns,
    ascending: new Set(["a", "b", "label_a", "label_b", "distance"]),
    first: { ...both, show: "all", sort: "cosine" },
    ask: (state) => get("match/pairs", state),
    lines: (answer) => answer.pairs.map((pair) => line(pair, columns, both)),
    told: (answer, heads, state) => buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(SHOWN[i] === state.show))),
    more: [h("div", { class: "bar choice", role: "group", "aria-label": "Show" }, buttons)],
  });
  return list;
}

function line(pair, columns, { a, b }) {
  const number = (key, row) => h("a", { href: regionPage(key, row.region) }, row.region);
  const cells = {
    A: () => number(a, pair.a),
    "Region of A": () => region(pair.a),
    B: () => number(b, pair.b),
    "Region of B": () => region(pair.b),
    Cosine: () => fixed(pair.cosine),
    "Distance / θ": () => h("span", { title: "in θ of A, and of B" }, `${fixed(pair.distance_in_theta_a, 2)} · ${fixed(pair.distance_in_theta_b, 2)}`),
    Jaccard: () => fixed(pair.jaccard, 2),
    F1: () => fixed(pair.f1, 2),
    "One to one": () => (pair.one_to_one_b === null ? "–" : pair.one_to_one_b === pair.b.region ? "yes" : h("a", { href: regionPage(b, pair.one_to_one_b), title: "A's region is paired with this one of B" }, pair.one_to_one_b)),
    Verdict: () => pair.verdict,
  };
  return h("tr", {}, columns.map(([, name, kind]) => h("td", { class: kind }, cells[name]())));
}

// Its label, and its exemplar where it was seen.
function region(row) {
  const context = [...row.context];
  const cut = context.length > CONTEXT ? `…${context.slice(-CONTEXT).join("")}` : row.context;
  return [h("bdi", { class: "label" }, visible(row.label)), h("div", { class: "seen" }, h("bdi", {}, visible(cut)), token(row.token))];
}
