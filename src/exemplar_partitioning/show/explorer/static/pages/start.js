// All dictionaries of the folders.

import { page } from "../api.js";
import { count, fixed, h, notice, percent, put, table } from "../dom.js";

export const ENDS = { saturated: "saturated", unseen: "missing mass reached", budget: "token budget", text: "end of text" };

export default function render(main, { all }) {
  document.title = "Exemplar Partitioning";
  put(main, h("h1", {}, `${all.dictionaries.length} ${all.dictionaries.length === 1 ? "dictionary" : "dictionaries"}`));
  for (const build of new Set(all.dictionaries.map((d) => d.build))) {
    const rows = all.dictionaries.filter((d) => d.build === build);
    const whole = rows.filter((d) => !d.error);
    put(
    main,
      h("section", {}, h("h2", {}, build), whole.length > 0 && h("p", { class: "dim" }, whole[0].model), whole.length > 0 && dictionaries(build, whole)),
      ...rows.filter((d) => d.error).map((d) => notice(`${d.key}: ${d.error}`, "error")),
    );
  }
}

function dictionaries(build, rows) {
  return table(
    `Dictionaries of ${build}`,
    [
      ["Dictionary", (d) => h("a", { href: page(d.key) }, `${d.site} p${d.percentile}`), "nowrap"],
      ["Regions", (d) => count(d.k), "num"],
      ["Threshold θ", (d) => fixed(d.threshold, 4), "num"],
      ["Activations", (d) => count(d.n_activations), "num"],
      ["Missing mass", (d) => percent(d.unseen.estimate), "num"],
      ["Ended by", (d) => ENDS[d.stopped], "nowrap"],
      ["Annotated", (d) => (d.annotated ? "yes" : "no"), ""],
      ["", (d) => [h("a", { href: page(d.key, "/regions") }, "regions"), " · ", h("a", { href: page(d.key, "/map") }, "map")], "nowrap"],
    ],
    rows,
  );
}
