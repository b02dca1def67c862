// Regions: searched, sorted, a page at a time. The address holds the state.

import { api, get, regionPage } from "../api.js";
import { count, fixed, h, notice, put, status, token, visible } from "../dom.js";
import { onKey } from "../keys.js";

const PAGE = 100;
const PLACES = [["any", "everywhere"], ["token", "exemplar token"], ["label", "label"], ["members", "member tokens"], ["lens", "logit lens"]];
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
const ASCENDING = new Set(["region", "token", "label", "lens", "distance"]); // on the first click

const state = () => ({ q: "", in: "any", sort: "size", desc: "1", page: "1", ...Object.fromEntries(new URLSearchParams(location.search)) });

export default async function render(main, { key }) {
  document.title = "Regions";
  const search = h("input", { type: "search", id: "search", "aria-label": "Search regions", placeholder: "Search regions  /", autocomplete: "off", spellcheck: "false" });
  const place = h("select", { "aria-label": "Search in" }, PLACES.map(([value, text]) => h("option", { value }, text)));
  const [message, body, pages] = [h("div"), h("tbody"), h("nav", { class: "pages", "aria-label": "Pages of the list" })];
  const heads = COLUMNS.map(([sort, name, kind]) => h("th", { scope: "col", class: kind }, sort ? h("button", { type: "button", onclick: () => sortBy(sort) }, name) : name));
  const found = h("p", { class: "dim" });
  put(
    main,
    h("h1", {}, "Regions"),
    message,
    h("form", { class: "bar", role: "search", onsubmit: (event) => event.preventDefault() }, search, place, found),
    h("div", { class: "scroll" }, h("table", { class: "list" }, h("caption", { class: "hidden" }, "Regions"), h("thead", {}, h("tr", {}, heads)), body)),
    pages,
  );

  let asked = 0;
  async function refresh() {
    const now = state();
    if (document.activeElement !== search) search.value = now.q;
    place.value = now.in;
    COLUMNS.forEach(([sort], i) => heads[i].setAttribute("aria-sort", sort !== now.sort ? "none" : now.desc === "1" ? "descending" : "ascending"));
    const mine = ++asked;
    let answer;
    try {
      answer = await get(api(key, "/regions"), { q: now.q, in: now.in, sort: now.sort, desc: now.desc, offset: (Math.max(1, Number(now.page) || 1) - 1) * PAGE, limit: PAGE });
    } catch (error) {
      message.replaceChildren(notice(error.message, "error"));
      return;
    }
    if (mine !== asked) return; // a later question is on its way
    const said = `${count(answer.matching)} of ${count(answer.total)} regions`;
    found.textContent = said;
    status(said);
    message.replaceChildren(...[notice(answer.not_annotated)].filter(Boolean));
    heads[3].firstChild.textContent = answer.size_is === "members" ? "Members" : "Arrivals";
    body.replaceChildren(...answer.regions.map((row) => line(key, row)));
    turn(answer, now);
  }

  function turn(answer, now) {
    const last = Math.max(1, Math.ceil(answer.matching / PAGE));
    const at = Number(now.page);
    const link = (text, to, fits) => h("button", { type: "button", disabled: !fits, onclick: () => go({ page: String(to) }) }, text);
    pages.replaceChildren(link("‹ previous", at - 1, at > 1), ` page ${count(at)} of ${count(last)} `, link("next ›", at + 1, at < last));
    onKey("n", () => at < last && go({ page: String(at + 1) }));
    onKey("p", () => at > 1 && go({ page: String(at - 1) }));
  }

  function address(change) {
    const next = { ...state(), page: "1", ...change };
    return `?${new URLSearchParams(next)}`;
  }
  function go(change) {
    history.pushState(null, "", address(change));
    scrollTo(0, 0);
    return refresh();
  }
  function sortBy(sort) {
    const now = state();
    const desc = now.sort === sort ? (now.desc === "1" ? "0" : "1") : ASCENDING.has(sort) ? "0" : "1";
    go({ sort, desc });
  }

  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      history.replaceState(null, "", address({ q: search.value }));
      refresh();
    }, 120);
  });
  place.addEventListener("change", () => go({ in: place.value }));
  addEventListener("popstate", refresh);
  moveBetween(search, body);
  await refresh();
  if (location.hash === "#search") search.focus();
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

// j, k and arrows move between the rows' links, so Enter opens one; / goes to the search box.
function moveBetween(search, body) {
  const move = (step) => () => {
    const links = [...body.querySelectorAll("td:first-child a")];
    const at = links.indexOf(document.activeElement);
    links[at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
  };
  for (const key of ["j", "ArrowDown"]) onKey(key, move(1));
  for (const key of ["k", "ArrowUp"]) onKey(key, move(-1));
  onKey("/", () => {
    search.focus();
    search.select();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      body.querySelector("a")?.focus();
    }
    if (event.key === "Escape") search.blur();
  });
}
