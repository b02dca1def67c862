// Elements, text and numbers. Text only ever goes in as text nodes, attributes and properties: never as markup.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([key, v]) => element.style.setProperty(key, v));
    else element.setAttribute(name, value === true ? "" : value);
  }
  return put(element, children);
}

// Children at the end of an element; null, undefined and false stand for none.
export function put(element, ...children) {
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const NAMED = { "\n": "↵", "\t": "⇥", "\ufffd": "\ufffd" };
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\u00a0]/gu;

// Control, direction and other invisible characters by number; nothing of the text can steer the page.
export function visible(text) {
  return text.replace(UNSEEN, (c) => NAMED[c] ?? `‹${c.codePointAt(0).toString(16).toUpperCase().padStart(2, "0")}›`);
}

// A token on its own: its edges are seen, its direction stays inside, its length is cut by the style sheet.
export function token(text, extra = "") {
  const [, before, middle, after] = /^( *)(.*?)( *)$/su.exec(text);
  const space = (spaces) => spaces && h("span", { class: "space", "aria-hidden": "true" }, "·".repeat(spaces.length));
  const shown = middle ? [space(before), visible(middle), space(after)] : text ? [space(text)] : [h("i", {}, "empty")];
  const element = h("bdi", { class: `token ${extra}` }, shown);
  if (text.length > 24) element.title = visible(text);
  return element;
}

// The spaces before a word, and the word: colour belongs to the word alone, or lines end in coloured gaps.
export function parted(text) {
  const word = text.trimStart();
  return word ? [text.slice(0, text.length - word.length).replace(UNSEEN, visible), word] : ["", text];
}

export const count = (n) => (n === null || n === undefined ? "–" : n.toLocaleString("en"));
export const fixed = (x, digits = 3) => (x === null || x === undefined ? "–" : x.toFixed(digits).replace("-", "−"));
export function percent(x) {
  if (x === null || x === undefined) return "–";
  const shown = x === 0 ? "0" : x < 1e-6 ? "< 0.0001" : x < 0.01 ? (100 * x).toPrecision(2) : (100 * x).toFixed(1);
  return `${shown}\u00a0%`;
}
export const lift = (x) => `${x >= 1e6 ? `${count(Math.round(x / 1e6))} M` : x >= 100 ? count(Math.round(x)) : x >= 1 ? x.toFixed(1) : x.toPrecision(2)} ×`;

// columns: [heading, cell of a row, class], rows: anything.
export function table(caption, columns, rows, props = {}) {
  const head = columns.map(([name, , kind]) => h("th", { scope: "col", class: kind }, name));
  const body = rows.map((row) => h("tr", {}, columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row)))));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", props, h("caption", { class: "hidden" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)),
  );
}

// Terms with their values, as a compact list.
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.map(([term, value, title]) => h("div", { title }, h("dt", {}, term), h("dd", {}, value))));
}

export const section = (heading, ...children) => h("section", {}, h("h2", {}, heading), children);

export function notice(text, kind = "") {
  return text && h("p", { class: `notice ${kind}`, role: kind === "error" ? "alert" : null }, visible(text));
}

export function status(text) {
  document.getElementById("status").textContent = text;
}
