// Members of a region in their context; more of them, and longer, from the text read again.

import { api, get, page, patiently } from "./api.js";
import { count, fixed, h, notice, percent, put, status, visible } from "./dom.js";
import { warm } from "./heat.js";

const PAGE = 20;
const CONTEXTS = [[30, "30 tokens"], [60, "60 tokens"], [400, "whole window"]];
const ORDERS = ["nearest", "random", "farthest"];

export const aboutExample = (key, { region, kind, rank }) => page(key, `/token?${new URLSearchParams({ region, example: `${kind}-${rank}` })}`);

// A line with each token coloured by its distance; the distance leads to the token's page, if it has one.
export function one(threshold, example, about = null) {
  const shown = example.tokens.some(Boolean) ? example.tokens : [example.document]; // without tokens, the row that it was
  const words = shown.map((text, i) => warm(text, example.distances[i], threshold, { class: i === example.at ? "at" : "" }, i === example.at ? "mark" : "span"));
  const where = `${visible(example.document)}, token ${count(example.position)}`;
  const distance = about ? h("a", { class: "num", href: about, title: `${where}: of what it is made, and what it is near to` }, fixed(example.distance)) : h("span", { class: "num", title: where }, fixed(example.distance));
  return h("li", {}, distance, h("bdi", { class: "text" }, words));
}

// Closed at first; what reading the text again takes is said before it is done.
export function more(r) {
  const [place, list] = [h("div", { "aria-live": "polite" }), h("ol", { class: "examples" })];
  const order = h("select", { "aria-label": "Order of the members", onchange: () => show() }, ORDERS.map((name) => h("option", {}, name)));
  const context = h("select", { "aria-label": "Context of the members", onchange: () => show() }, CONTEXTS.map(([tokens, words]) => h("option", { value: tokens, selected: tokens === 60 }, words)));
  const [bar, next, sum] = [h("div", { class: "bar", hidden: true }, order, context), h("button", { type: "button", onclick: () => show(list.children.length) }), h("p", { class: "dim" })];
  let asked = 0;
  async function show(offset = 0) {
    const mine = ++asked;
    const wait = (seconds, share) => place.replaceChildren(h("p", { class: "dim" }, `reading the text again, for ${Math.round(seconds)} s now: ${percent(share)} ...`));
    try {
      const answer = await patiently(api(r.key, `/regions/${r.region}/members`), { sort: order.value, context: context.value, offset, limit: PAGE }, wait);
      if (mine !== asked) return;
      if (!offset) list.replaceChildren();
      put(list, answer.examples.map((example) => one(r.threshold, example)));
      const left = answer.total - list.children.length;
      sum.textContent = `${count(list.children.length)} of ${count(answer.total)} members in this text`;
      status(sum.textContent);
      next.textContent = `${count(Math.min(PAGE, left))} more`;
      place.replaceChildren(sum);
      [bar.hidden, next.hidden] = [false, left <= 0];
    } catch (error) {
      if (mine === asked) place.replaceChildren(notice(error.message, "error"));
    }
  }
  async function plan() {
    try {
      const { how, source, tokens, seconds } = await get(api(r.key, `/regions/${r.region}/members/plan`));
      const takes = seconds < 90 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} minutes`;
      const words = how === "kept" ? "Activations were kept by the build: the model does not run." : "No activations were kept (`ep build --keep-activations`), so the model runs.";
      const read = h("button", { type: "button", onclick: () => show() }, `Read ${count(tokens)} tokens of ${visible(source)} again: about ${takes}`);
      place.replaceChildren(h("p", { class: "dim" }, `${words} Once for all regions of this dictionary.`), read);
    } catch (error) {
      place.replaceChildren(notice(error.message));
    }
  }
  next.hidden = true;
  const opened = (event) => event.target.open && !place.children.length && plan();
  return h("details", { ontoggle: opened }, h("summary", {}, "More members, and with more context"), bar, place, list, next);
}
