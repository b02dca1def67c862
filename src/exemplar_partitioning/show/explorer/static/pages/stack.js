// One text in every dictionary of a build: a row for each site and percentile, each token coloured by its region.

import { page, regionPage } from "../api.js";
import { describe, mates } from "../dictionaries.js";
import { count, fixed, h, notice, put, status, token, visible } from "../dom.js";
import { far } from "../heat.js";
import { ask, line, origin } from "../passage.js";

const FIRST = "The old king walks under the stone bridge and sees the river.";
const NO_MODEL = "No model is loaded to read a text: start `ep explore` with --live. An example that the folder keeps can be stacked without, from its token's page.";

export default async function render(main, { key, all }) {
  document.title = "Stacked";
  const state = () => new URLSearchParams(location.search);
  const here = mates(all, key);
  const [problem, body] = [h("div"), h("div")];
  const box = h("textarea", { rows: "2", "aria-label": "Text to read", spellcheck: "false", maxlength: String(all.longest_text) });
  const pick = (name, title, values, words) => h("label", {}, `${title} `, h("select", { name, "aria-label": title, onchange: (event) => go({ [name]: event.target.value }) }, h("option", { value: "" }, "all"), [...new Set(values)].map((value) => h("option", { value }, words(value)))));
  const selects = [
    pick("site", "Site", here.map((d) => d.site), (site) => site),
    pick("percentile", "Percentile", here.map((d) => d.percentile).sort((a, b) => a - b), (p) => String(p)),
  ];
  const shows = ["label", "number"].map((what) => h("button", { type: "button", onclick: () => go({ show: what === "label" ? "" : what }) }, `${what}s`));
  const whose = state().get("region");
  put(main, h("h1", {}, "Stacked"), !whose && all.live && box, h("div", { class: "bar" }, selects, h("span", { class: "bar choice", role: "group", "aria-label": "In the cells" }, shows)), problem, body);

  let [answer, asked] = [null, 0];
  function go(change) {
    const now = Object.entries({ ...Object.fromEntries(state()), ...change }).filter(([, value]) => value !== "");
    history.replaceState(null, "", page(key, `/stack?${new URLSearchParams(now)}`));
    draw();
  }
  function draw() {
    const [site, percentile, show] = ["site", "percentile", "show"].map((name) => state().get(name) ?? "");
    [selects[0].lastChild.value, selects[1].lastChild.value] = [site, percentile];
    shows.forEach((button, i) => button.setAttribute("aria-pressed", String((show === "number") === (i === 1))));
    if (!answer) return;
    const rows = answer.rows.filter((row) => (!site || row.site === site) && (!percentile || String(row.percentile) === percentile));
    const from = answer.about.document === undefined ? null : [line(answer), origin(key, answer)];
    body.replaceChildren(...[from, notice(answer.caveat), notice(answer.why_not), rows.length > 0 && stacked(answer, rows, show)].flat().filter(Boolean));
    body.querySelector("th.at")?.scrollIntoView({ block: "nearest", inline: "center" });
    status(`${count(answer.tokens.length)} tokens in ${count(rows.length)} dictionaries`);
  }
  async function refresh() {
    const mine = ++asked;
    if (!answer) body.replaceChildren(h("p", { class: "dim" }, "opening every dictionary ..."));
    try {
      const read = await ask(key, whose || !all.live ? state() : new URLSearchParams({ text: box.value }), "stack");
      if (mine !== asked) return;
      answer = read;
      problem.replaceChildren(...(read ? [] : [notice(NO_MODEL)]));
      if (!read) body.replaceChildren();
      draw();
    } catch (error) {
      if (mine !== asked) return;
      problem.replaceChildren(notice(error.message, "error"));
      if (!answer) body.replaceChildren();
    }
  }
  let typing;
  box.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      go({ text: box.value.slice(0, 2000) });
      if (box.value.trim()) refresh();
    }, 300);
  });
  box.value = state().get("text") ?? FIRST;
  draw();
  await refresh();
}

function stacked(answer, rows, show) {
  const cell = (row, i, hue) => {
    const region = row.regions[i];
    if (region === null) return h("td", {}, h("span", { class: "dim", title: "no region" }, "–"));
    const { label } = answer.regions[row.key][region];
    const [distance, near] = [row.distances[i], row.distances[i] <= row.threshold];
    const title = `region ${region}: ${visible(label)}; distance ${fixed(distance)}${near ? ", within θ" : ""}`;
    const words = show === "number" ? String(region) : visible(label.replaceAll(/[“”]/gu, ""));
    return h("td", {}, h("a", { href: regionPage(row.key, region), title, class: `hue ${near ? "near" : ""}`, style: { "--hue": hue(region) } }, words));
  };
  const line = (row) => {
    const hue = far();
    return h("tr", {}, h("th", { scope: "row" }, h("a", { href: page(row.key) }, describe(row))), answer.tokens.map((_, i) => cell(row, i, hue)));
  };
  const heads = answer.tokens.map((text, i) => h("th", { scope: "col", class: i === answer.at ? "at" : "" }, token(text)));
  return h(
    "div",
    { class: "scroll stack", tabindex: "0", role: "region", "aria-label": "Tokens in every dictionary" },
    h("table", { class: "small" }, h("caption", { class: "hidden" }, "Tokens in every dictionary"), h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Dictionary"), heads)), h("tbody", {}, rows.map(line))),
    h("p", { class: "dim" }, "in a row, one colour for each region; underlined: within θ"),
  );
}
