// Regions of a dictionary: searched, sorted, a page at a time.

import { api, get, regionPage } from "../api.js";
import { count, fixed, h, percent, put, token, visible } from "../dom.js";
import { listing } from "../listing.js";

const COLUMNS = [
  ["region", "Region", "num"],
  ["token", "Exemplar", ""],
  ["label", "Label", "grow"],
  ["score", "Detection", "num wide", "how well the label's words tell held-out members from members of other regions: 1 is certain, .5 is chance"],
  ["size", "Size", "num"],
  ["interest", "Interest", "num wide", "not one word, spread over documents, enough members, a lens of its own"],
  ["identity", "One word", "num wide", "share of the members that are the commonest word"],
  ["documents", "Documents", "num wide", "different documents among the examples"],
  ["coherence", "Coherence", "num wide", "length of the mean of the members' directions"],
  [null, "Member tokens", "wide tokens"],
  ["lens", "Promotes", "wide tokens", "what the mean member makes likelier to come next, and the average region does not"],
];
const FILTERS = [["several", "1", "hide single-word regions"], ["members", "30", "30 members or more"]];

export default async function render(main, { key }) {
  document.title = "Regions";
  const lists = h("select", { "aria-label": "List of bookmarks", hidden: true, onchange: (event) => list.go({ list: event.target.value }) });
  get(api(key, "/bookmarks")).then(({ lists: kept }) => {
    const here = new URLSearchParams(location.search).get("list") ?? "";
    lists.replaceChildren(h("option", { value: "" }, "all regions"), ...Object.entries(kept).map(([name, regions]) => h("option", { value: name, selected: name === here }, `${visible(name)} (${count(regions.length)})`)));
    lists.hidden = !Object.keys(kept).length;
  }, () => {});
  const boxes = FILTERS.map(([name, value]) => h("input", { type: "checkbox", id: `filter-${name}`, onchange: (event) => list.go({ [name]: event.target.checked ? value : "" }) }));
  const list = listing({
    what: "regions",
    columns: COLUMNS,
    ascending: new Set(["region", "token", "label", "lens", "distance"]),
    first: { sort: "best" },
    ask: (state) => get(api(key, "/regions"), Object.fromEntries(Object.entries(state).filter(([, value]) => value !== ""))),
    lines: (answer) => answer.regions.map((row) => line(key, row)),
    told: (answer, heads, state) => {
      heads[4].firstChild.textContent = answer.size_is === "members" ? "Members" : "Online counts";
      boxes.forEach((box, i) => (box.checked = state[FILTERS[i][0]] === FILTERS[i][1]));
    },
    more: h("button", { type: "button", title: "the order of the search, or of interest", onclick: () => list.go({ sort: "best", desc: "1" }) }, "best first"),
    after: [lists, ...FILTERS.map(([name, , text]) => h("label", { for: `filter-${name}` }, boxes[FILTERS.findIndex(([each]) => each === name)], ` ${text}`))],
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
    h("td", { class: "grow" }, h("bdi", { class: `label ${row.source === "hand" ? "hand" : ""}` }, visible(row.label)), row.text && h("div", { class: "dim excerpt", title: HOW[row.how] }, h("bdi", {}, marked(row.text)))),
    h("td", { class: "num wide" }, fixed(row.score, 2)),
    h("td", { class: "num" }, count(row.size)),
    h("td", { class: "num wide" }, fixed(row.interest, 2)),
    h("td", { class: "num wide" }, row.identity === undefined ? "\u2013" : percent(row.identity)),
    h("td", { class: "num wide" }, count(row.documents)),
    h("td", { class: "num wide" }, fixed(row.coherence, 2)),
    h("td", { class: "wide tokens" }, tokens(row.top_tokens)),
    h("td", { class: "wide tokens" }, tokens(row.lens_top)),
  );
}

const HOW = { label: "its label has the words", word: "its members or their context have the words", stem: "words of the same stem", part: "parts of words" };

// The example's token, between guillemets, stands out.
function marked(text) {
  const [, before, at, after] = /^(.*?)\u00ab(.*)\u00bb(.*?)$/su.exec(text) ?? ["", "", text, "", ""];
  return [visible(before.slice(-34)), h("mark", {}, visible(at) || "\u2205"), visible(after)];
}
