// What the model writes before and after acting on regions. The address holds the state.

import { api, get, page, post, regionPage } from "../api.js";
import { count, fixed, h, notice, percent, put, visible } from "../dom.js";
import { conversation } from "../turns.js";

const TICKS = [-2, -1, 0, 1, 2]; // of the slider, from end to end; the number beside it takes any
const ROW = [0.1, 0.25, 0.5]; // side by side
const DEFAULTS = { region: "", alpha: "0.25", mode: "add", basis: "exemplar", tokens: "all", new: "40", prompt: "Tell me about your day." };
const CHOICES = {
  mode: [["add", "add"], ["ablate", "ablate"]],
  basis: [["exemplar", "exemplar"], ["mean", "mean of members"]],
  tokens: [["all", "all tokens"], ["prompt", "prompt"], ["generated", "new tokens"]],
};

export default async function render(main, { key, all }) {
  document.title = "Steer";
  if (!all.live) {
    put(main, h("h1", {}, "Steer"), notice("No model is loaded: start `ep explore` with --live."));
    return;
  }
  const given = { ...DEFAULTS, ...Object.fromEntries(new URLSearchParams(location.search)) };
  const box = {
    region: h("input", { type: "text", size: "10", inputmode: "numeric", autocomplete: "off", placeholder: "42, 7" }),
    alpha: h("input", { type: "number", step: "0.05", "aria-label": "alpha, as a number" }),
    new: h("input", { type: "number", min: "1", max: "200" }),
    prompt: h("textarea", { rows: "2", spellcheck: "false" }),
    ...Object.fromEntries(Object.entries(CHOICES).map(([name, options]) => [name, h("select", {}, options.map(([value, text]) => h("option", { value }, text)))])),
  };
  const slider = h("input", { type: "range", min: TICKS[0], max: TICKS.at(-1), step: "0.05", list: "ticks", "aria-label": "alpha, in typical residual norms" });
  for (const [name, input] of Object.entries(box)) input.id = `steer-${name}`;
  const field = (text, name) => h("div", { class: "field" }, h("label", { class: "dim", for: box[name].id }, text), box[name]);
  const alpha = h(
    "div",
    { class: "alpha" },
    h("span", { class: "dim", title: "in typical residual norms of the site" }, "alpha"),
    h("div", {}, slider, h("div", { class: "ticks dim", "aria-hidden": "true" }, TICKS.map((x) => h("span", {}, String(x).replace("-", "−"))))),
    box.alpha,
    h("button", { type: "button", title: "the largest alpha at which text after this prompt still reads; takes some tries", onclick: () => changed(0, "auto") }, "strongest that reads"),
    h("button", { type: "button", title: `alpha ${ROW.join(", ")}, one after the other`, onclick: row }, "a row of strengths"),
    h("datalist", { id: "ticks" }, TICKS.map((x) => h("option", { value: x }))),
  );
  // Words in place of a number: regions that are about them, to choose from.
  const hits = h("p", { class: "hits", "aria-live": "polite" });
  const find = h("input", { type: "search", id: "steer-find", size: "16", placeholder: "words of a label", autocomplete: "off" });
  let looking;
  find.addEventListener("input", () => {
    clearTimeout(looking);
    looking = setTimeout(async () => {
      const q = find.value.trim();
      const found = q ? await get(api(key, "/regions"), { q, limit: 6 }).catch(() => ({ regions: [] })) : { regions: [] };
      hits.replaceChildren(...found.regions.flatMap((row) => [h("button", { type: "button", onclick: () => take(row.region) }, `${row.region} `, h("bdi", { class: "label" }, visible(row.label))), " "]));
      if (q && !found.regions.length) hits.textContent = "no region is about these words";
    }, 200);
  });
  function take(region) {
    box.region.value = String(region);
    hits.replaceChildren();
    changed(0);
  }
  const [chosen, problem, legend, verdict] = [h("p", { class: "chosen" }), h("div"), h("div"), h("p", { class: "verdict", "aria-live": "polite" })];
  const strengths = h("div", { class: "strengths" });
  const progress = h("p", { class: "dim progress", "aria-live": "polite" });
  const talk = conversation(() => changed(0));
  // What was written becomes the assistant's turn, and another prompt answers it.
  function goOn(written) {
    talk.add(box.prompt.value, written);
    box.prompt.value = "";
    remember();
    box.prompt.focus();
    progress.textContent = "Say something in answer.";
  }
  const [before, after] = [side("Before", goOn), side("After", goOn)];
  const sides = h("div", { class: "columns written" }, before.section, after.section);
  put(
    main,
    h("h1", {}, "Steer"),
    h(
      "form",
      { class: "steering", onsubmit: submitted },
      h("div", { class: "bar" }, field("region", "region"), h("div", { class: "field" }, h("label", { class: "dim", for: "steer-find" }, "or find it"), find), field("do", "mode"), field("direction", "basis"), field("at", "tokens"), field("new tokens", "new")),
      hits,
      chosen,
      alpha,
      talk.element,
      h("label", { class: "dim", for: box.prompt.id }, "prompt"),
      box.prompt,
    ),
    progress,
    problem,
    verdict,
    sides,
    strengths,
    legend,
  );

  function remember() {
    const now = Object.entries(box).map(([name, input]) => [name, input.value.slice(0, 2000)]);
    history.replaceState(null, "", `${page(key, "/steer")}?${new URLSearchParams(now.filter(([name, value]) => value !== DEFAULTS[name]))}${talk.hash()}`);
  }
  function request() {
    return {
      prompt: box.prompt.value,
      turns: talk.turns(),
      regions: box.region.value.split(",").map((text) => text.trim()).filter(Boolean).map(numbered),
      alpha: auto ? "auto" : numbered(box.alpha.value),
      mode: box.mode.value,
      basis: box.basis.value,
      tokens: box.tokens.value,
      max_new_tokens: numbered(box.new.value),
    };
  }
  function draw(answer, what, seconds) {
    chosen.replaceChildren(...what.regions.flatMap((region) => [named(key, region, answer), " "]));
    if (what.alpha === "auto") {
      auto = false;
      slider.value = box.alpha.value = String(answer.alpha ?? box.alpha.value);
      remember();
    }
    before.show(key, "Before", answer.before, answer);
    after.show(key, did({ ...what, alpha: answer.alpha }), answer.after, answer);
    verdict.replaceChildren(...judged(answer));
    legend.replaceChildren(explained(answer));
    progress.textContent = `Written in ${seconds.toFixed(1)} s: ${off(answer.after)}, ${count(beyond(answer.before))} before`;
  }

  let [asked, busy, auto] = [0, false, false];
  // One request at a time: what was changed meanwhile is asked next, and the answer to what it was before is dropped.
  async function refresh() {
    asked += 1;
    if (busy) return;
    busy = true;
    sides.setAttribute("aria-busy", "true");
    for (let mine = null; mine !== asked; ) {
      mine = asked;
      await ask(() => mine === asked);
    }
    sides.setAttribute("aria-busy", "false");
    busy = false;
  }
  async function ask(isNewest) {
    if (!box.region.value.trim()) {
      problem.replaceChildren();
      progress.replaceChildren("Which region? Take its number from the ", h("a", { href: page(key, "/regions") }, "list of regions"), ".");
      return;
    }
    progress.textContent = "writing …";
    const [what, started] = [request(), performance.now()];
    let [answer, error] = [null, null];
    try {
      answer = await post(api(key, "/steer"), what);
    } catch (refusal) {
      error = refusal;
    }
    if (!isNewest()) return;
    sides.hidden = legend.hidden = verdict.hidden = Boolean(error);
    if (error) auto = false;
    strengths.replaceChildren();
    problem.replaceChildren(...(error ? [notice(error.message, "error")] : []));
    if (error) progress.textContent = "";
    else draw(answer, what, (performance.now() - started) / 1000);
  }

  function suit() {
    slider.disabled = box.alpha.disabled = box.mode.value === "ablate"; // which knows no alpha
  }
  let waiting;
  function changed(delay, alpha) {
    clearTimeout(waiting);
    suit();
    auto = alpha === "auto";
    waiting = setTimeout(() => {
      remember();
      refresh();
    }, delay);
  }
  // What is changed while a row is written ends it.
  async function row() {
    const what = { ...request(), mode: "add" };
    if (busy || !what.regions.length) return;
    const mine = (asked += 1);
    busy = true;
    strengths.replaceChildren();
    problem.replaceChildren();
    for (const strength of ROW) {
      if (mine !== asked) break;
      progress.textContent = `writing at alpha ${strength} …`;
      try {
        const answer = await post(api(key, "/steer"), { ...what, alpha: strength });
        const shown = side(`alpha ${strength}`, goOn);
        shown.show(key, `alpha ${strength}`, answer.after, answer);
        shown.section.append(h("p", { class: "verdict" }, judged(answer)));
        strengths.append(shown.section);
      } catch (error) {
        problem.replaceChildren(notice(error.message, "error"));
        break;
      }
    }
    progress.textContent = "";
    busy = false;
    if (mine !== asked) refresh();
  }
  function submitted(event) {
    event.preventDefault();
    changed(0);
  }
  slider.addEventListener("input", () => {
    box.alpha.value = slider.value;
    changed(250);
  });
  box.alpha.addEventListener("input", () => {
    slider.value = box.alpha.value || "0";
    changed(500);
  });
  for (const name of Object.keys(CHOICES)) box[name].addEventListener("change", () => changed(0));
  for (const name of ["region", "new", "prompt"]) box[name].addEventListener("input", () => changed(700));

  for (const [name, input] of Object.entries(box)) input.value = given[name];
  for (const name of Object.keys(CHOICES)) box[name].value ||= DEFAULTS[name];
  slider.value = box.alpha.value || "0";
  suit();
  refresh();
}

// A number if it is one; else the text itself, for the server to say what is wrong with it.
const numbered = (text) => (text.trim() && Number.isFinite(Number(text)) ? Number(text) : text);

const beyond = (tokens) => tokens.filter((each) => each.off).length;
const off = (tokens) => `${count(beyond(tokens))} of ${count(tokens.length)} tokens off the manifold`;

function did({ mode, regions, alpha }) {
  const which = `${regions.length === 1 ? "region" : "regions"} ${regions.join(", ")}`;
  return `After: ${which} ${mode === "ablate" ? "ablated" : `added, alpha ${String(alpha).replace("-", "−")}`}`;
}

function side(name, goOn) {
  const [heading, sum, text] = [h("h2", {}, name), h("p", { class: "dim" }), h("bdi", { class: "text live" })];
  let written = "";
  const next = h("button", { type: "button", hidden: true, onclick: () => goOn(written) }, "Go on from this");
  return {
    section: h("section", { "aria-label": name }, heading, sum, text, next),
    show(key, title, tokens, answer) {
      written = tokens.map((each) => each.text).join("");
      next.hidden = !answer.chat || !written.trim();
      heading.textContent = title;
      sum.textContent = off(tokens);
      text.replaceChildren(...(tokens.length ? tokens.flatMap((each) => word(key, each, answer)) : [h("i", { class: "dim" }, "nothing: the text ends at once")]));
    },
  };
}

// The spaces before a word stay outside its mark.
function word(key, each, answer) {
  const [, space, text] = /^( *)(.*)$/su.exec(each.text);
  const shown = (text || space).split("\n").map(visible).join("↵\n") || (each.off ? "∅" : "");
  const props = { title: told(each, answer), class: each.off ? "off" : null };
  const element = each.region === null ? h("span", props, shown) : h("a", { ...props, href: regionPage(key, each.region) }, shown);
  return shown ? [text ? space : "", element] : [];
}

function told(each, answer) {
  const where = each.region === null ? "no region" : `region ${each.region}: ${visible(answer.regions[each.region].label)}; distance ${fixed(each.distance)}`;
  return each.off ? `off the manifold; nearest ${where} > θ` : where;
}

// Whether the text still reads, and by what.
function judged({ verdict, fluency: { before, after, null: random } }) {
  const beside = (what) => [what(after), ` (${what(before)} before`, random && `, ${what(random)} after a random step as long`, ")"];
  const perplexity = beside(({ perplexity: x }) => (x === null ? "\u2013" : x.toPrecision(2)));
  return [h("b", { class: verdict.split(",")[0] }, verdict), h("span", { class: "dim" }, ": perplexity under the model as it is ", perplexity, ", repetition ", beside(({ repetition: x }) => percent(x)))];
}

const named = (key, region, answer) =>
  h("a", { href: regionPage(key, region) }, `region ${region} `, h("bdi", { class: "label" }, visible(answer.regions[region].label)));

function explained(answer) {
  const length = `alpha 1 is the site's typical norm, ${fixed(answer.typical_norm, 1)}`;
  const chat = answer.chat ? "; the prompt goes into the model's chat template" : "";
  return h("p", { class: "dim legend" }, h("span", { class: "off" }, "off the manifold"), `: farther than θ = ${fixed(answer.threshold, 4)} from every exemplar, unlike anything the dictionary has seen; ${length}${chat}`);
}
