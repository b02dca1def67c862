// Rows of a table: searched, sorted, a page at a time. The address holds the state.

import { count, h, notice, status } from "./dom.js";
import { onKey } from "./keys.js";

const PAGE = 100;
export const PLACES = [["any", "everywhere"], ["token", "exemplar token"], ["label", "label"], ["members", "member tokens"], ["lens", "logit lens"]];

// what:       rows in a word, for headings and names.
// columns:    [what it sorts by or null, heading, class, explanation]; ascending: sorts whose first click starts with the smallest.
// first:      the state where the address says nothing.
// ask(state): the server's answer, with `matching` and `total` rows; lines(answer): its rows, their first link opens one.
// told(answer, heads, state): what else to show of it.  more, after: further elements of the bar, in front and behind.
export function listing({ what, columns, ascending, first, ask, lines, told, more = [], after = [] }) {
  const state = () => ({ q: "", in: "any", desc: "1", page: "1", ...first, ...Object.fromEntries(new URLSearchParams(location.search)) });
  const search = h("input", { type: "search", id: "search", "aria-label": `Search ${what}`, placeholder: `Search ${what}  /`, autocomplete: "off", spellcheck: "false" });
  const place = h("select", { "aria-label": "Search in" }, PLACES.map(([value, text]) => h("option", { value }, text)));
  const [message, body, pages] = [h("div"), h("tbody"), h("nav", { class: "pages", "aria-label": "Pages of the list" })];
  const heads = columns.map(([sort, name, kind, title]) => h("th", { scope: "col", class: kind, title }, sort ? h("button", { type: "button", onclick: () => sortBy(sort) }, name) : name));
  const found = h("p", { class: "dim" });
  const name = what[0].toUpperCase() + what.slice(1);
  const parts = [
    message,
    h("form", { class: "bar", role: "search", onsubmit: (event) => event.preventDefault() }, more, search, place, after, found),
    h("div", { class: "scroll" }, h("table", { class: "list" }, h("caption", { class: "hidden" }, name), h("thead", {}, h("tr", {}, heads)), body)),
    pages,
  ];

  let asked = 0;
  async function refresh() {
    const { page, ...now } = state();
    if (document.activeElement !== search) search.value = now.q;
    place.value = now.in;
    columns.forEach(([sort], i) => heads[i].setAttribute("aria-sort", sort !== now.sort ? "none" : now.desc === "1" ? "descending" : "ascending"));
    const mine = ++asked;
    let answer;
    try {
      answer = await ask({ ...now, offset: (Math.max(1, Number(page) || 1) - 1) * PAGE, limit: PAGE });
    } catch (error) {
      message.replaceChildren(notice(error.message, "error"));
      return;
    }
    if (mine !== asked) return; // a later question is on its way
    const said = `${count(answer.matching)} of ${count(answer.total)} ${what}`;
    found.textContent = said;
    status(said);
    message.replaceChildren(...[notice(answer.not_annotated)].filter(Boolean));
    told?.(answer, heads, now);
    body.replaceChildren(...lines(answer));
    turn(answer, Number(page));
  }

  function turn(answer, at) {
    const last = Math.max(1, Math.ceil(answer.matching / PAGE));
    const link = (text, to, fits) => h("button", { type: "button", disabled: !fits, onclick: () => go({ page: String(to) }) }, text);
    pages.replaceChildren(link("‹ previous", at - 1, at > 1), ` page ${count(at)} of ${count(last)} `, link("next ›", at + 1, at < last));
    onKey("n", () => at < last && go({ page: String(at + 1) }));
    onKey("p", () => at > 1 && go({ page: String(at - 1) }));
  }

  const address = (change) => `?${new URLSearchParams({ ...state(), page: "1", ...change })}`;
  function go(change) {
    history.pushState(null, "", address(change));
    if (change.page) parts[1].scrollIntoView();
    return refresh();
  }
  function sortBy(sort) {
    const now = state();
    go({ sort, desc: now.sort === sort ? (now.desc === "1" ? "0" : "1") : ascending.has(sort) ? "0" : "1" });
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
  return { parts, search, refresh, go };
}

// j, k and arrows move between the rows' first links, so Enter opens one; / goes to the search box.
function moveBetween(search, body) {
  const links = () => [...body.rows].map((row) => row.querySelector("a"));
  const move = (step) => () => {
    const all = links();
    const at = all.indexOf(document.activeElement);
    all[at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step))]?.focus();
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
      links()[0]?.focus();
    }
    if (event.key === "Escape") search.blur();
  });
}
