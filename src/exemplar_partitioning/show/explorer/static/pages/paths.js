// Paths between two regions, on every level of a tree.

import { api, page, patiently, regionPage } from "../api.js";
import { fixed, h, notice, section, status, visible } from "../dom.js";

// A form whose state is in the address: at (the level's key), from, to. pick() fills it from elsewhere.
export function routes(levels, key) {
  const level = h("select", { "aria-label": "Level of both regions" }, levels.map((row) => h("option", { value: row.key }, `p${row.percentile}`)));
  const box = (name) => h("input", { type: "number", min: "0", step: "1", required: true, "aria-label": name, placeholder: "region" });
  const [from, to] = [box("From region"), box("To region")];
  const found = h("div", { "aria-live": "polite" });
  const form = h("form", { class: "bar" }, level, h("label", {}, "from ", from), h("label", {}, "to ", to), h("button", {}, "Find paths"));
  const words = "The fewest steps between neighbouring exemplars, each step to one of the three nearest. On other levels the same exemplars are the ends, or the nearest to them. “path” in the tree fills this in.";
  const element = section("Path between two regions", form, h("p", { class: "dim" }, words), found);

  let asked = 0;
  async function show() {
    const state = new URLSearchParams(location.search);
    level.value = levels.some((row) => row.key === state.get("at")) ? state.get("at") : key;
    [from.value, to.value] = [state.get("from") ?? "", state.get("to") ?? ""];
    const mine = ++asked;
    found.replaceChildren();
    if (!from.value || !to.value) return;
    const wait = (seconds) => mine === asked && found.replaceChildren(h("p", { class: "dim" }, `looking for neighbours, for ${Math.round(seconds)} s now ...`));
    try {
      const answer = await patiently(api(level.value, `/regions/${encodeURIComponent(from.value)}/paths`), { to: to.value }, wait);
      if (mine !== asked) return;
      found.replaceChildren(...answer.levels.map(way));
      status(`Paths on ${answer.levels.length} levels`);
    } catch (error) {
      if (mine === asked) found.replaceChildren(notice(error.message, "error"));
    }
  }

  function go() {
    const state = new URLSearchParams({ at: level.value, from: from.value, to: to.value });
    history.pushState(null, "", `?${state}${location.hash}`);
    return show();
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    go();
  });
  addEventListener("popstate", show);

  // The first region picked is where the path begins, the second of the same level where it ends.
  function pick(at, region) {
    if (!from.value || to.value || level.value !== at) {
      level.value = at;
      [from.value, to.value] = [region, ""];
      found.replaceChildren();
      status(`From region ${region}; pick another of its level`);
      return;
    }
    to.value = region;
    go();
    element.scrollIntoView();
  }
  return { element, show, pick };
}

function way(level) {
  const steps = level.regions.length - 1;
  const name = [h("a", { href: page(level.key) }, `p${level.percentile}`), steps < 0 ? ": no path" : `: ${steps} ${steps === 1 ? "step" : "steps"}`];
  if (steps < 0) return h("div", {}, h("h3", {}, name), h("p", { class: "dim" }, "The regions here fall apart into groups that have no neighbours in common."));
  const off = level.ends.some((cosine) => cosine < 1 - 1e-6) && h("span", { class: "dim" }, ` between the nearest here, at cosine ${fixed(level.ends[0])} and ${fixed(level.ends[1])}`);
  const stop = (row) =>
    h(
      "li",
      {},
      row.cosine !== null && h("span", { class: "dim", title: "cosine of the exemplars" }, "→ ", fixed(row.cosine, 2), " "),
      h("a", { href: regionPage(level.key, row.region) }, row.region),
      " ",
      h("bdi", { class: "label" }, visible(row.label)),
    );
  return h("div", {}, h("h3", {}, name, off), h("ol", { class: "chain", "aria-label": `Path at p${level.percentile}` }, level.regions.map(stop)));
}
