// Any text, read by the model through the dictionary as one types.

import { api, page, post, regionPage } from "../api.js";
import { mates } from "../dictionaries.js";
import { count, fixed, h, notice, parted, put, status, table, token, visible } from "../dom.js";
import { far, legend, warm } from "../heat.js";
import { hangsOn, madeOf } from "../made.js";

const FIRST = "The old king walks under the stone bridge and sees the river.";

export default async function render(main, { key, all }) {
  document.title = "Live";
  if (!all.live) {
    put(main, h("h1", {}, "Live"), notice("No model is loaded: start `ep explore` with --live."));
    return;
  }
  const box = h("textarea", { rows: "3", "aria-label": "Text to read", spellcheck: "false", maxlength: String(all.longest_text), title: `at most ${count(all.longest_text)} characters` });
  const modes = ["region", "distance"];
  const buttons = modes.map((mode) => h("button", { type: "button", onclick: () => choose(mode) }, `colour by ${mode}`));
  const views = { tokens: (text) => listed(key, read, text), "made of": (text) => made(text), "next token": (text) => hangs(text) };
  const tabs = Object.keys(views).map((name) => h("button", { type: "button", onclick: () => look(name) }, name));
  const [problem, key_, shown, rows] = [h("div"), h("div"), h("p", { class: "text live", "aria-label": "Tokens" }), h("div")];
  put(main, h("h1", {}, "Live"), box, h("div", { class: "bar choice", role: "group", "aria-label": "Colours" }, buttons), problem, key_, shown);
  const stacked = h("a", { href: page(key, "/stack") }, "in every dictionary");
  put(main, h("div", { class: "bar choice", role: "group", "aria-label": "Below" }, tabs, mates(all, key).length > 1 && stacked), rows);

  let [mode, below, read, asked] = ["region", "tokens", null, 0];
  const made = async (text) => madeOf(key, await post(api(key, "/decompose"), { text }), far());
  const hangs = async (text) => hangsOn(key, await post(api(key, "/attribute"), { text }));
  function choose(next) {
    mode = next;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(modes[i] === mode)));
    if (read) draw();
  }
  async function look(next) {
    below = next;
    tabs.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === below)));
    const [mine, wanted] = [asked, below];
    if (!read) return;
    try {
      const answer = await views[wanted](box.value);
      if (mine === asked && wanted === below) rows.replaceChildren(...[answer].flat());
    } catch (error) {
      if (mine === asked) problem.replaceChildren(notice(error.message, "error"));
    }
  }
  function draw() {
    key_.replaceChildren(mode === "distance" ? legend(read.threshold) : h("p", { class: "dim" }, "one colour for each region; underlined: within θ"));
    const hue = far();
    shown.replaceChildren(...read.tokens.flatMap((each) => word(key, each, read, mode, hue)));
  }
  async function refresh() {
    const mine = ++asked;
    stacked.href = page(key, `/stack?${new URLSearchParams({ text: box.value })}`);
    if (!box.value.trim()) return;
    try {
      const started = performance.now();
      const answer = await post(api(key, "/read"), { text: box.value });
      if (mine !== asked) return; // more was typed since
      read = answer;
      problem.replaceChildren();
      draw();
      await look(below);
      status(`${count(read.tokens.length)} tokens in ${Math.round(performance.now() - started)} ms`);
    } catch (error) {
      if (mine === asked) problem.replaceChildren(notice(error.message, "error"));
    }
  }
  let typing;
  box.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      history.replaceState(null, "", `${page(key, "/live")}?${new URLSearchParams({ text: box.value.slice(0, 2000) })}`);
      refresh();
    }, 200);
  });
  box.value = new URLSearchParams(location.search).get("text") ?? FIRST;
  choose("region");
  await look(below);
  await refresh();
}

function word(key, each, read, mode, hue) {
  if (each.region === null) return h("span", { class: "dim", title: "no region" }, visible(each.text));
  const title = `region ${each.region}: ${visible(read.regions[each.region].label)}; distance ${fixed(each.distance)}${each.within ? ", within θ" : ""}`;
  const props = { href: regionPage(key, each.region), title };
  if (mode === "distance") return warm(each.text, each.distance, read.threshold, props, "a");
  const [space, text] = parted(each.text);
  return [space, h("a", { ...props, class: `hue ${each.within ? "near" : ""}`, style: { "--hue": hue(each.region) } }, visible(text) || "∅")];
}

function listed(key, read, text) {
  const about = (each) => page(key, `/token?${new URLSearchParams({ text, at: read.tokens.indexOf(each) })}`);
  return table(
    "Tokens with their regions",
    [
      ["Token", (each) => token(each.text), ""],
      ["Region", (each) => (each.region === null ? "–" : h("a", { href: regionPage(key, each.region) }, each.region)), "num"],
      ["Label", (each) => (each.region === null ? "" : h("bdi", { class: "label" }, visible(read.regions[each.region].label))), "grow"],
      ["Distance", (each) => fixed(each.distance), "num"],
      ["Within θ", (each) => (each.within ? "yes" : "no"), "wide"],
      ["", (each) => each.region !== null && h("a", { href: about(each), "aria-label": `made of, and nearest regions of ${visible(each.text)}` }, "made of"), "nowrap"],
    ],
    read.tokens,
    { class: "small" },
  );
}
