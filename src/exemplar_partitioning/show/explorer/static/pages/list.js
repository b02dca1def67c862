// Regions of a dictionary: searched, sorted, a page at a time.

import { api, get, regionPage } from "../api.js";
import { count, fixed, h, put, token, visible } from "../dom.js";
import { listing } from "../listing.js";

const COLUMNS = [
  ["region", "Region", "num"],
  ["token", "Exemplar", ""],
  ["label", "Label", "grow"],
  ["size", "Size", "num"],
  ["coherence", "Coherence", "num wide"],
  ["stability", "Stability", "num wide"],
  ["distance", "Distance", "num wide"],
  [null, "Member tokens", "wide tokens"],
  ["lens", "Logit lens", "wide tokens"],
];

export default async function render(main, { key }) {
  document.title = "Regions";
  const list = listing({
    what: "regions",
    columns: COLUMNS,
    ascending: new Set(["region", "token", "label", "lens", "distance"]),
    first: { sort: "size" },
    ask: (state) => get(api(key, "/regions"), state),
    lines: (answer) => answer.regions.map((row) => line(key, row)),
    told: (answer, heads) => (heads[3].firstChild.textContent = answer.size_is === "members" ? "Members" : "Arrivals"),
  });
  put(main, h("h1", {}, "Regions"), list.parts);
  await list.refresh();
  if (location.hash === "#search") list.search.focus();
}

function line(key, row) {
  const tokens = (texts) => (texts ?? []).map((text) => [token(text), " "]);
  return h(
    "tr",
    {},
    h("td", { class: "num" }, h("a", { href: regionPage(key, row.region) }, row.region)),
    h("td", {}, token(row.token)),
    h("td", { class: "grow" }, h("bdi", { class: `label ${row.source === "hand" ? "hand" : ""}` }, visible(row.label))),
    h("td", { class: "num" }, count(row.size)),
    h("td", { class: "num wide" }, fixed(row.coherence, 2)),
    h("td", { class: "num wide" }, fixed(row.stability, 2)),
    h("td", { class: "num wide" }, fixed(row.mean_distance)),
    h("td", { class: "wide tokens" }, tokens(row.top_tokens)),
    h("td", { class: "wide tokens" }, tokens(row.lens_top)),
  );
}
