// A site from coarse to fine: how regions divide, the tree of them, and paths between two on every level.

import { api, get, page, patiently, regionPage } from "../api.js";
import { levels as levelsOf } from "../dictionaries.js";
import { count, fixed, h, notice, percent, put, section, status, table, token, visible } from "../dom.js";
import { onKey } from "../keys.js";
import { routes } from "./paths.js";

const PAGE = 50; // regions of a list, until more are asked for
const FOUND = 8; // of a search

export default async function render(main, { key, all }) {
  document.title = "Resolution tree";
  const waiting = h("p", { class: "dim" }, "growing the tree ...");
  put(main, h("h1", {}, "Resolution tree ", h("span", { class: "dim" }, levelsOf(all, key)[0]?.site)), waiting);
  const wait = (seconds, share) => (waiting.textContent = `growing the tree: ${percent(share)} in ${Math.round(seconds)} s ...`);
  const t = await patiently(api(key, "/tree"), { limit: PAGE }, wait).finally(() => waiting.remove());
  const forest = new Forest(t);
  const paths = routes(t.levels, key);
  put(
    main,
    h(
      "div",
      { class: "sides turned" },
      h("div", {}, summary(t.levels), paths.element),
      section("From coarse to fine", finder(t.levels, key), h("p", { class: "dim legend" }, "on the left, how many children; bar: size within the level, by its square root; “same”: the parent has this exemplar too"), forest.problem, forest.root),
    ),
  );
  forest.root.addEventListener("click", (event) => {
    const button = event.target.closest("button.pick");
    if (button) paths.pick(button.dataset.key, Number(button.dataset.region));
  });
  const reveal = () => location.hash.length > 1 && forest.reveal(key, location.hash.slice(1));
  addEventListener("hashchange", reveal);
  await Promise.all([reveal(), paths.show()]);
}

function summary(levels) {
  const share = (name) => (row) => percent(row[name]);
  const shown = table(
    "Levels",
    [
      ["Level", (row) => h("a", { href: page(row.key) }, `p${row.percentile}`), ""],
      ["θ", (row) => fixed(row.threshold, 4), "num"],
      ["Regions", (row) => count(row.k), "num"],
      ["split", share("split"), "num"],
      ["childless", share("childless"), "num"],
      ["kept", share("same_exemplar"), "num"],
      ["nested", share("nested"), "num"],
      ["by chance", share("nested_chance"), "num"],
    ],
    levels,
    { class: "small" },
  );
  const words =
    "Split, childless: regions with several children on the next level, and with none. Kept: regions whose exemplar the next level has too. " +
    "Nested: regions whose parent’s parent is the region, two levels up, that their own exemplar lies in; nothing forces them to.";
  return section("Levels", shown, h("p", { class: "dim" }, words));
}

// Regions by what is written about them, as links into the tree.
function finder(levels, key) {
  const level = h("select", { "aria-label": "Level to search" }, levels.map((row) => h("option", { value: row.key, selected: row.key === key }, `p${row.percentile}`)));
  const search = h("input", { type: "search", "aria-label": "Find a region in the tree", placeholder: "Find a region  /", autocomplete: "off", spellcheck: "false" });
  const results = h("ul", { class: "found" });
  let [asked, typing] = [0];
  async function find() {
    const mine = ++asked;
    const answer = search.value.trim() ? await get(api(level.value, "/regions"), { q: search.value.trim(), limit: FOUND }).catch((error) => ({ error })) : { regions: [] };
    if (mine !== asked) return; // a later question is on its way
    if (answer.error) return results.replaceChildren(h("li", {}, notice(answer.error.message, "error")));
    const items = answer.regions.map((row) => h("li", {}, h("a", { href: address(level.value, row.region) }, row.region, " ", h("bdi", { class: "label" }, visible(row.label)))));
    if (answer.matching > FOUND) items.push(h("li", { class: "dim" }, `and ${count(answer.matching - FOUND)} more`));
    results.replaceChildren(...items);
    status(search.value.trim() ? `${count(answer.matching)} regions found` : "");
  }
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(find, 150);
  });
  level.addEventListener("change", find);
  onKey("/", () => search.focus());
  return h("form", { role: "search", onsubmit: (event) => event.preventDefault() }, h("div", { class: "bar" }, level, search), results);
}

const address = (key, region) => `#${encodeURIComponent(key)}/${region}`;

// Nested lists whose items are fetched when they are opened.
class Forest {
  constructor(t) {
    this.levels = new Map(t.levels.map((row) => [row.key, row]));
    this.root = h("ul", { class: "tree", "aria-label": "Regions from coarse to fine" });
    this.problem = h("div", { "aria-live": "assertive" });
    this.fill(this.root, t, (offset) => get(api(t.levels[0].key, "/tree"), { offset, limit: PAGE }));
    this.root.addEventListener("keydown", (event) => this.key(event));
    for (const key of ["j", "ArrowDown"]) onKey(key, () => this.move(1));
    for (const key of ["k", "ArrowUp"]) onKey(key, () => this.move(-1));
  }

  // The regions of an answer at the end of a list, and a button for what is left; ask(offset) gets the next answer.
  fill(list, answer, ask) {
    for (const row of answer.regions) this.has(list, row) || list.append(this.item(row));
    const next = answer.offset + answer.regions.length;
    const left = answer.total - next;
    if (left > 0) list.append(h("li", { class: "more" }, h("button", { type: "button", onclick: (event) => this.more(list, event.target, () => ask(next), ask) }, left > PAGE ? `show ${PAGE} more of ${count(left)}` : `show ${left} more`)));
  }

  async more(list, button, first, ask) {
    const answer = await this.tried(first);
    if (!answer) return;
    const before = button.parentElement.previousElementSibling;
    button.parentElement.remove();
    this.fill(list, answer, ask);
    (before.nextElementSibling ?? before).querySelector(".node > a").focus();
  }

  has(list, row) {
    return [...list.children].find((item) => item.dataset.key === row.key && item.dataset.region === String(row.region));
  }

  item(row) {
    const level = this.levels.get(row.key);
    const name = `region ${row.region} of p${level.percentile}`;
    const children = `${count(row.children)} ${row.children === 1 ? "child" : "children"}`;
    const open = row.children > 0 && h("button", { type: "button", class: "twist", "aria-expanded": "false", "aria-label": `${children} of ${name}`, onclick: () => this.toggle(item) }, count(row.children));
    const wide = `${Math.max(1, Math.round(100 * Math.sqrt(row.size / Math.max(1, level.largest))))}%`;
    const item = h(
      "li",
      { "data-key": row.key, "data-region": row.region },
      h(
        "div",
        { class: "node" },
        open || h("span", { class: "twist dim", title: "no children" }, "–"),
        h("span", { class: "dim level" }, `p${level.percentile}`),
        h("a", { href: regionPage(row.key, row.region), "aria-label": name }, row.region),
        token(row.token),
        h("bdi", { class: "label" }, visible(row.label), row.same_exemplar && h("span", { class: "dim same", title: "the parent has the same exemplar" }, "same")),
        h("span", { class: "size", title: level.size_is }, h("i", { style: { width: wide } }), h("span", {}, count(row.size))),
        h("button", { type: "button", class: "pick", "data-key": row.key, "data-region": row.region, "aria-label": `Path from or to ${name}` }, "path"),
      ),
    );
    return item;
  }

  async tried(action) {
    try {
      this.problem.replaceChildren();
      return await action();
    } catch (error) {
      this.problem.replaceChildren(notice(error.message, "error"));
    }
  }

  toggle(item) {
    return item.querySelector("button.twist").getAttribute("aria-expanded") === "true" ? this.close(item) : this.open(item);
  }

  close(item) {
    item.querySelector("button.twist").setAttribute("aria-expanded", "false");
    item.querySelector(":scope > ul").hidden = true;
  }

  // Its list, fetched at first.
  async open(item) {
    const { key, region } = item.dataset;
    let list = item.querySelector(":scope > ul");
    if (!list) {
      const ask = (offset) => get(api(key, `/regions/${region}/tree`), { offset, limit: PAGE });
      const answer = await this.tried(() => ask(0));
      if (!answer) return null;
      list = item.querySelector(":scope > ul") ?? item.appendChild(h("ul", { "aria-label": `Children of region ${region}` }));
      if (!list.children.length) this.fill(list, answer, ask);
    }
    list.hidden = false;
    item.querySelector("button.twist").setAttribute("aria-expanded", "true");
    return list;
  }

  // Open the tree down to a region: `#REGION` of this page's dictionary, or `#KEY/REGION`.
  async reveal(here, hash) {
    const [region, key = here] = hash.split("/").reverse().map(decodeURIComponent);
    const family = await this.tried(() => get(api(key, `/regions/${encodeURIComponent(region)}/tree`), { limit: 1 }));
    if (!family) return;
    let [list, item] = [this.root];
    for (const row of [...family.ancestors, family.region]) {
      if (item) list = await this.open(item);
      if (!list) return;
      item = this.has(list, row);
      if (!item) list.prepend((item = this.item(row)));
    }
    this.root.querySelectorAll("[aria-current]").forEach((each) => each.removeAttribute("aria-current"));
    item.setAttribute("aria-current", "true");
    item.querySelector("a").focus();
    item.firstChild.scrollIntoView({ block: "center" });
  }

  move(step) {
    const links = [...this.root.querySelectorAll(".node > a")].filter((link) => link.checkVisibility());
    const at = links.findIndex((link) => link.closest("li") === document.activeElement.closest("li"));
    links[at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step))]?.focus();
  }

  // Right opens, then goes in; left closes, then goes out.
  key(event) {
    const item = event.target.closest("li[data-key]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey || !["ArrowRight", "ArrowLeft"].includes(event.key)) return;
    event.preventDefault();
    const open = item.querySelector("button.twist")?.getAttribute("aria-expanded");
    if (item.querySelector("button.twist")?.closest("li") !== item) return;
    if (event.key === "ArrowRight") open === "false" ? this.open(item) : item.querySelector(":scope > ul a")?.focus();
    else if (open === "true") this.close(item);
    else item.parentElement.closest("li")?.querySelector("a").focus();
  }
}
