// A dictionary as a whole.

import { api, get, page, regionPage } from "../api.js";
import { count, facts, fixed, h, notice, percent, put, section, table, token, visible } from "../dom.js";
import { line, plot } from "../plots.js";
import { ENDS } from "./start.js";

export default async function render(main, { key }) {
  const d = await get(api(key));
  document.title = `${d.site} p${d.percentile}`;
  put(
    main,
    h("h1", {}, `${d.site} `, h("span", { class: "dim" }, `p${d.percentile} · ${d.model}`)),
    notice(d.not_annotated),
    notice(d.labels_error, "error"),
    headline(d),
    h("div", { class: "columns" }, growth(d), sizes(d)),
    h("div", { class: "columns" }, largest(d), d.annotation ? quality(d.annotation) : null),
    settings(d),
  );
}

function headline(d) {
  const { annotation: a, unseen } = d;
  const tiles = [
    [count(d.k), "regions"],
    [fixed(d.threshold, 4), "threshold θ, cosine distance"],
    [percent(unseen.estimate), `missing mass, 95 % ${percent(unseen.low)} to ${percent(unseen.high)}`],
    [count(d.n_activations), `activations, until ${ENDS[d.stopped]}`],
  ];
  if (a) {
    tiles.push([percent(a.coverage), `of ${count(a.n_activations)} members within θ`]);
    tiles.push([count(Math.round(a.effective)), `effective regions, ${count(a.empty)} empty`]);
  }
  return h("ul", { class: "tiles" }, tiles.map(([value, what]) => h("li", {}, h("b", {}, value), h("span", {}, what))));
}

function growth(d) {
  const [n, k] = d.growth.at(-1) ?? [0, 0];
  const half = d.growth.findIndex(([, regions]) => regions >= k / 2); // within the first point, when is not known
  return plot(
    "Growth",
    `${count(k)} regions after ${count(n)} activations; half of them ${half > 0 ? "after" : "within the first"} ${count(d.growth[half]?.[0])}.`,
    () => ({
      data: [line(d.growth, "regions", "%{y:,} regions after %{x:,} activations<extra></extra>")],
      x: ["activations", { type: "log", dtick: "D2", tickformat: "~s" }],
      y: ["regions", { type: "log", dtick: "D2", tickformat: "~s" }],
    }),
  );
}

function sizes(d) {
  const shown = d.sizes.filter(([, size]) => size > 0);
  return plot(
    "Sizes of regions",
    `The largest region has ${count(d.sizes[0][1])} ${d.size_is}; ${count(d.empty)} regions have none.`,
    () => ({
      data: [line(shown, d.size_is, `rank %{x:,}: %{y:,} ${d.size_is}<extra></extra>`)],
      x: ["rank", { type: "log", dtick: 1 }],
      y: [d.size_is, { type: "log", dtick: 1 }],
    }),
  );
}

function largest(d) {
  const rows = table(
    "Largest regions",
    [
      ["Region", (r) => h("a", { href: regionPage(d.key, r.region) }, r.region), "num"],
      ["Exemplar", (r) => token(r.token), ""],
      ["Label", (r) => h("bdi", { class: "label" }, visible(r.label)), "grow"],
      [d.size_is === "members" ? "Members" : "Online count", (r) => count(r.size), "num"],
    ],
    d.largest,
  );
  return section("Largest regions", rows, h("p", {}, h("a", { href: page(d.key, "/regions") }, `all ${count(d.k)} regions`)));
}

const METRICS = {
  coverage: "coverage",
  cohesion: "cohesion",
  nearest_inter: "nearest other exemplar",
  separation_ratio: "separation ratio",
  silhouette: "silhouette",
  max_similarity: "largest similarity",
  gini: "Gini of sizes, in this sample",
  effective: "regions that this sample uses",
  utilisation: "share of all that it uses",
};

function quality(a) {
  const { dictionary, random_exemplars: random, gaussian, n_activations: n } = a.quality;
  const value = (metrics, name) => (name === "effective" ? count(Math.round(metrics[name])) : fixed(metrics[name]));
  const rows = table(
    "Intrinsic metrics beside their nulls",
    [
      ["Metric", (name) => h("span", { title: a.metrics[name] }, METRICS[name]), "grow"],
      ["Dictionary", (name) => h("b", {}, value(dictionary, name)), "num"],
      ["Random exemplars", (name) => value(random, name), "num"],
      ["Gaussian", (name) => value(gaussian, name), "num"],
    ],
    Object.keys(METRICS),
  );
  return section("Intrinsic metrics beside their nulls", rows, h("p", { class: "dim" }, `On ${count(n)} activations. No one of them alone tells quality.`));
}

function settings(d) {
  const { model, text, calibration, build } = d.config;
  const versions = Object.entries(d.config.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  const pairs = [
    ["Model", model.fingerprint === null ? `${model.id}: activations were given, d ${model.d_model}, ${model.dtype}` : `${model.id}, ${model.architecture}, ${model.n_layers} layers, d ${model.d_model}, ${model.dtype}`],
    ["Site", d.config.site.name + (d.config.site.transformer_lens ? ` (${d.config.site.transformer_lens})` : "")],
    ["Text", text.source + (text.context_size ? `, windows of ${text.context_size}${text.prepend_bos ? " after BOS" : ""}, seed ${text.seed}` : "")],
    ["Calibration", `percentile ${calibration.percentile} of batches of ${count(calibration.batch)}, on ${count(calibration.n_activations)} activations; spread ${calibration.spread.toPrecision(2)}`],
    ["Build", `${count(build.skipped)} activations skipped; saturation window ${count(build.saturation_window)}; on ${build.device}`],
    ["Labels", `${count(d.labelled)} by hand or from models${d.detection ? `; detection ${fixed(d.detection.mean, 2)} on average, ${fixed(d.detection.chance, 2)} with labels exchanged` : ""}`],
    ["Content", h("code", {}, d.content_id.slice(0, 16))],
    ["Folder", h("code", {}, d.path)],
    ["Versions", versions],
  ];
  if (d.annotation) {
    const a = d.annotation;
    pairs.splice(5, 0, ["Annotation", `${a.text.source}: ${count(a.n_tokens)} tokens of ${count(a.n_documents)} documents; ${count(a.skipped)} skipped; Gini of sizes ${fixed(a.gini)}`]);
  }
  return section("How it was made", facts(pairs));
}
