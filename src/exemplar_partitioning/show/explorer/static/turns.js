// What was said before a prompt: turns of a chat, kept behind the # of the address, which no server sees.

import { h, visible } from "./dom.js";

const ROLES = ["system", "user", "assistant"];

// changed(): told after every change that is not made by `add`.
export function conversation(changed) {
  const system = h("textarea", { rows: "1", placeholder: "none", spellcheck: "false" });
  const list = h("ol", { class: "turns" });
  const back = h("button", { type: "button", onclick: () => drop(2) }, "take the last answer back");
  const anew = h("button", { type: "button", onclick: () => drop(turns.length) }, "start anew");
  const whole = h("details", { class: "talk" }, h("summary", {}, "Conversation before it"), h("label", { class: "dim" }, "system message", system), list, h("div", { class: "bar" }, back, anew));
  let turns = [];
  let [waiting, first] = [undefined, null];

  const all = () => (system.value.trim() ? [{ role: "system", content: system.value }, ...turns] : turns);
  function draw() {
    list.replaceChildren(...turns.map(({ role, content }) => h("li", { class: role }, h("b", {}, role), " ", h("bdi", { class: "text" }, content.split("\n").map(visible).join("↵\n")))));
    back.hidden = anew.hidden = !turns.length;
    whole.open ||= all().length > 0;
  }
  function drop(count) {
    turns = turns.slice(0, Math.max(0, turns.length - count));
    draw();
    changed();
  }
  system.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(changed, 700);
  });
  try {
    const kept = JSON.parse(new URLSearchParams(location.hash.slice(1)).get("turns") ?? "[]");
    turns = kept.filter(({ role, content }) => ROLES.includes(role) && typeof content === "string");
    if (turns[0]?.role === "system") [first, ...turns] = turns;
    system.value = first?.content ?? "";
  } catch {
    // an address that was cut: no turns
  }
  draw();
  return {
    element: whole,
    turns: all,
    hash: () => (all().length ? `#${new URLSearchParams({ turns: JSON.stringify(all()) })}` : ""),
    add(prompt, answer) {
      turns = [...turns, { role: "user", content: prompt }, { role: "assistant", content: answer }];
      draw();
    },
  };
}
