// One place in every block of a build: how many regions, which persist from block to block, and one of them followed.

import { api, get, page, patiently, regionPage } from "../api.js";
import { count, fixed, h, notice, percent, put, section, status, table, token, visible } from "../dom.js";
import { color, plot } from "../plots.js";

const AT_ONCE = 20; // seconds that persistence may take without being asked for
const block = (site) => site.slice(site.lastIndexOf(".") + 1);

export default async function render(main, { key }) {
  document.title = "Across layers";
  const answer = await get(api(key, "/layers"));
  const { place, percentile, sites, why_not } = answer;
  put(main, h("h1", {}, "Across layers ", h("span", { class: "dim" }, `${place}, ${sites.length} blocks`)), regions(answer), sizes(key, answer));
  if (why_not) {
    put(main, section(`From block to block at percentile ${percentile}`, notice(why_not)));
    return;
  }
  const line = followed(key, percentile);
  put(main, persistence(key, answer, line.show), line.element);
  await line.show();
  if (location.hash === "#follow") line.element.scrollIntoView();
}

const percentiles = (sites) => [...new Set(sites.flatMap((s) => s.dictionaries.map((d) => d.percentile)))].sort((a, b) => a - b);

function regions({ sites }) {
  const all = percentiles(sites);
  const of = (site, p) => site.dictionaries.find((d) => d.percentile === p)?.k ?? null;
  const [first, last] = [sites[0], sites.at(-1)];
  const words = all.map((p) => `percentile ${p}: ${count(of(first, p))} in block ${block(first.site)}, ${count(of(last, p))} in block ${block(last.site)}`).join("; ");
  return plot("Regions by block", `${words}.`, () => ({
    data: all.map((p, i) => ({
      type: "scatter",
      mode: "lines+markers+text",
      x: sites.map((s) => Number(block(s.site))),
      y: sites.map((s) => of(s, p)),
      text: sites.map((_, j) => (j === sites.length - 1 ? `p${p}` : "")),
      textposition: "middle right",
      textfont: { color: color("dim") },
      cliponaxis: false,
      line: { color: `hsl(${(i * 137.508 + 212) % 360} 60% 55%)`, width: 2 },
      hovertemplate: `block %{x}: %{y:,} regions at percentile ${p}<extra></extra>`,
    })),
    x: ["block", { dtick: sites.length > 16 ? 4 : undefined }],
    y: ["regions", { type: "log", dtick: "D2", tickformat: "~s" }],
  }));
}

function sizes(key, { sites }) {
  const cell = (site, p) => {
    const d = site.dictionaries.find((each) => each.percentile === p);
    return d ? h("a", { href: page(d.key), title: `θ = ${fixed(d.threshold, 4)}`, "aria-current": d.key === key ? "true" : null }, count(d.k)) : "–";
  };
  const columns = [["Site", (site) => site.site, "nowrap"], ...percentiles(sites).map((p) => [`percentile ${p}`, (site) => cell(site, p), "num"])];
  return section("Regions of every dictionary", table("Regions of every dictionary", columns, sites, { class: "small" }));
}

function persistence(key, { percentile, seconds, command }, done) {
  const place = h("div", { "aria-live": "polite" });
  async function compute() {
    place.replaceChildren(h("p", { class: "dim" }, "matching block with block ..."));
    try {
      const answer = await patiently(api(key, "/layers/persistence"), {}, (since) => place.replaceChildren(h("p", { class: "dim" }, `matching block with block, for ${Math.round(since)} s now ...`)));
      place.replaceChildren(...carried(answer));
      status("Persistence is there");
      await done();
    } catch (error) {
      place.replaceChildren(notice(error.message, "error"));
    }
  }
  if (seconds <= AT_ONCE) compute();
  else put(place, h("button", { type: "button", onclick: compute }, `Match every block with the next: about ${seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} minutes`}`));
  const words = h("p", { class: "dim" }, "As a table, JSON and a picture of the flow: ", h("code", {}, command));
  return section(`From block to block at percentile ${percentile}`, place, words);
}

function carried({ rows, null: name, false_alarms: alarms }) {
  const later = rows.slice(1);
  const before = (i) => rows[i].regions;
  const share = (what) => later.map((row, i) => row[what] / before(i));
  const [kept, chance] = [share("persisted"), share("by_chance")];
  const least = kept.indexOf(Math.min(...kept));
  const words = `Of the block before, ${percent(kept[least])} of the regions persist at the least (block ${block(later[least].site)}), ${percent(Math.max(...kept))} at the most; without correspondence, at most ${percent(Math.max(...chance))}.`;
  const trace = (y, what, tint, dash) => ({ type: "scatter", mode: "lines+markers", x: later.map((row) => Number(block(row.site))), y, line: { color: color(tint), width: 2, dash }, hovertemplate: `block %{x}: %{y:.1%} ${what}<extra></extra>` });
  const figure = plot("Share of regions that persist", words, () => ({
    data: [trace(kept, "persist", "accent"), trace(chance, "would by chance", "dim", "dot")],
    x: ["block", {}],
    y: ["of the block before", { tickformat: ".0%", rangemode: "tozero" }],
  }));
  const told = (row, what) => (row[what] === null ? "–" : count(Math.round(row[what])));
  const shown = table(
    "From block to block",
    [
      ["Block", (row) => h("a", { href: page(row.key) }, block(row.site)), "num"],
      ["Regions", (row) => count(row.regions), "num"],
      ["Persisted", (row) => told(row, "persisted"), "num"],
      ["By chance", (row) => told(row, "by_chance"), "num"],
      ["New", (row) => told(row, "introduced"), "num"],
      ["Cosine", (row) => fixed(row.cosine, 2), "num wide"],
      ["Null", (row) => fixed(row.cosine_null, 2), "num wide"],
      ["Since first", (row) => percent(row.begun[0] / row.regions), "num"],
    ],
    rows,
    { class: "small" },
  );
  const about = `persisted: regions of the block before that are found here, at ${percent(alarms)} false alarms under ${name}; by chance: how many would be without correspondence; cosine and null: medians of best matches; since the first: regions that go back to the first block, from each to its nearest before`;
  return [h("div", { class: "columns" }, figure, h("div", {}, shown, h("p", { class: "dim" }, about)))];
}

// A form whose state is in the address; without one, the region that has most to tell.
function followed(key, percentile) {
  const box = h("input", { type: "number", min: "0", step: "1", "aria-label": "Region to follow", placeholder: "region" });
  const found = h("div", { "aria-live": "polite" });
  const form = h("form", { class: "bar", onsubmit: (event) => (event.preventDefault(), go()) }, h("label", {}, "region ", box), h("button", {}, "Follow"));
  const words = h("p", { class: "dim" }, "From its own block on, each time the region with the most similar exemplar in the next block, and likewise back to the first.");
  function go() {
    history.pushState(null, "", page(key, `/layers?${new URLSearchParams({ region: box.value })}`));
    return show();
  }
  async function show() {
    const asked = new URLSearchParams(location.search).get("region");
    try {
      box.value = asked ?? box.value ?? "";
      if (!box.value) box.value = (await get(api(key, "/regions"), { limit: 1 })).regions[0].region;
      found.replaceChildren(way(key, await get(api(key, `/regions/${encodeURIComponent(box.value)}/layers`))));
    } catch (error) {
      found.replaceChildren(notice(error.message, "error"));
    }
  }
  addEventListener("popstate", show);
  const element = section(`One region followed at percentile ${percentile}`, form, words, found);
  element.id = "follow";
  return { element, show };
}

function way(key, { line, at }) {
  const verdict = (row) => (row.cosine === null ? "" : row.persists === null ? "–" : row.persists ? "persists" : "no more than by chance");
  return table(
    "The region in every block",
    [
      ["Block", (row) => (row === line[at] ? h("b", {}, block(row.site)) : h("a", { href: page(row.key) }, block(row.site))), "num"],
      ["Region", (row) => h("a", { href: regionPage(row.key, row.region) }, row.region), "num"],
      ["Exemplar", (row) => token(row.token), "wide"],
      ["Label", (row) => h("bdi", { class: "label" }, visible(row.label)), "grow"],
      ["Size", (row) => count(row.size), "num wide"],
      ["Cosine", (row) => (row.cosine === null ? "start" : fixed(row.cosine, 2)), "num"],
      ["Cutoff", (row) => fixed(row.cutoff, 2), "num"],
      ["", verdict, ""],
    ],
    line,
    { class: "small" },
  );
}
