// Which page this is; what all pages share.

import { get, page } from "./api.js";
import { blocks, describe, levels, mates, named, several } from "./dictionaries.js";
import { h, notice } from "./dom.js";
import { onKey } from "./keys.js";

const PAGES = [
  [/^\/$/, "start"],
  [/^\/d\/([^/]+)$/, "overview"],
  [/^\/d\/([^/]+)\/regions$/, "list"],
  [/^\/d\/([^/]+)\/regions\/(\d+)$/, "region"],
  [/^\/d\/([^/]+)\/map$/, "map"],
  [/^\/d\/([^/]+)\/tree$/, "tree"],
  [/^\/d\/([^/]+)\/layers$/, "layers"],
  [/^\/d\/([^/]+)\/live$/, "live"],
  [/^\/d\/([^/]+)\/token$/, "token"],
  [/^\/d\/([^/]+)\/stack$/, "stack"],
  [/^\/d\/([^/]+)\/steer$/, "steer"],
  [/^\/compare$/, "compare"],
];

const main = document.getElementById("main");

function toggleTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
  dispatchEvent(new Event("theme"));
}

function openHelp() {
  const help = document.getElementById("help");
  if (!help.open) help.showModal();
}

// Links to the pages of this dictionary, and a choice of dictionaries for the same page.
function navigation(name, key, all) {
  const nav = document.getElementById("nav");
  const here = all.dictionaries.find((d) => d.key === key);
  if (here) {
    const choose = h(
      "select",
      { "aria-label": "Dictionary", onchange: (event) => location.assign(page(event.target.value, KEPT[name] ?? "")) },
      all.dictionaries.map((d) => h("option", { value: d.key, selected: d.key === key }, several(all) ? named(d) : describe(d))),
    );
    const links = [["overview", "Overview", ""], ["list", "Regions", "/regions"], ["map", "Map", "/map"]];
    if (levels(all, key).length > 1) links.push(["tree", "Tree", "/tree"]);
    if (blocks(all, key).length > 1) links.push(["layers", "Layers", "/layers"]);
    if (all.live) links.push(["live", "Live", "/live"]);
    if (mates(all, key).length > 1 && (all.live || name === "stack")) links.push(["stack", "Stacked", "/stack"]);
    if (all.live) links.push(["steer", "Steer", "/steer"]);
    const current = name === "region" ? "list" : name;
    nav.append(choose, ...links.map(([target, text, rest]) => h("a", { href: page(key, rest), "aria-current": target === current ? "page" : null }, text)));
    onKey("o", () => location.assign(page(key)));
    onKey("l", () => location.assign(page(key, "/regions")));
    onKey("m", () => location.assign(page(key, "/map")));
    if (name !== "list") onKey("/", () => location.assign(page(key, "/regions#search")));
  }
  if (all.dictionaries.length > 1) {
    const params = key ? `?a=${encodeURIComponent(key)}` : "";
    nav.append(h("a", { href: `/compare${params}`, "aria-current": name === "compare" ? "page" : null }, "Compare"));
  }
}

const KEPT = { list: "/regions", region: "/regions", map: "/map", tree: "/tree", live: "/live", steer: "/steer", stack: "/stack", layers: "/layers" };

// The dictionary that comparing begins at: its pages stay at hand.
const first = (all) => new URLSearchParams(location.search).get("a") ?? all.dictionaries.find((d) => !d.error)?.key;

async function show() {
  document.getElementById("theme").addEventListener("click", toggleTheme);
  document.getElementById("help-button").addEventListener("click", openHelp);
  onKey("t", toggleTheme);
  onKey("?", openHelp);
  try {
    const found = PAGES.map(([pattern, name]) => [pattern.exec(location.pathname), name]).find(([match]) => match);
    if (!found) throw new Error("There is no such page here.");
    const [match, name] = found;
    const [key, region] = match.slice(1).map(decodeURIComponent);
    const [{ default: render }, all] = await Promise.all([import(`./pages/${name}.js`), get("dictionaries")]);
    navigation(name, name === "compare" ? first(all) : key, all);
    await render(main, { key, region: Number(region), all });
    const here = all.dictionaries.find((d) => d.key === key);
    if (here && name !== "overview") document.title += ` · ${describe(here)}`;
  } catch (error) {
    main.append(h("h1", {}, "This cannot be shown"), notice(error.message, "error"));
  }
  main.dataset.ready = "yes";
}

show();
