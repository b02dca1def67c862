// A token or a passage: of a text of the moment, or of an example that the folder keeps.

import { api, get, page, post } from "./api.js";
import { count, fixed, h, parted, visible } from "./dom.js";

// what: `token` or `stack`; null where the address names neither a text nor a region.
export async function ask(key, asked, what) {
  const [text, region] = [asked.get("text"), asked.get("region")];
  if (text) return post(api(key, `/${what}?${new URLSearchParams({ at: asked.get("at") ?? "0" })}`), { text });
  if (region) return get(api(key, `/regions/${encodeURIComponent(region)}/${what}`), { example: asked.get("example") ?? "exemplar" });
  return null;
}

// The tokens in a line, the one that the page is about marked; link(i) may lead from one to its page.
export function line(answer, link) {
  const words = answer.tokens.flatMap((text, i) => {
    const [space, word] = parted(text);
    const shown = visible(word) || "∅";
    if (i === answer.at) return [space, h("mark", {}, shown)];
    return [space, link && answer.known[i] ? h("a", { href: link(i), class: "plain" }, shown) : shown];
  });
  return h("p", { class: "text" }, h("bdi", {}, words));
}

const SOURCES = { kept: "its activation was kept by the build", model: "read by the model" };

// Where it is from, in a line.
export function origin(key, { about, source }) {
  const parts = [SOURCES[source]].filter(Boolean);
  if (about.document === undefined) return h("p", { class: "dim" }, parts);
  const lies = about.distance === 0 ? "the exemplar of " : `${fixed(about.distance)} from the exemplar of `;
  return h("p", { class: "dim", title: visible(about.document) }, `${visible(about.document.split("/").at(-1))}, token ${count(about.position)} · ${lies}`, h("a", { href: page(key, `/regions/${about.region}`) }, `region ${about.region}`), parts.map((part) => ` · ${part}`));
}
