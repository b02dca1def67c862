// A region: what it is called, what belongs to it, where it comes from, what it promotes, what lies beside it.

import { api, get, page, post, regionPage } from "../api.js";
import { blocks, levels, named } from "../dictionaries.js";
import { count, facts, fixed, h, lift, notice, parted, percent, put, section, status, table, token, visible } from "../dom.js";
import { legend } from "../heat.js";
import { aboutExample, more, one } from "../members.js";
import { onKey } from "../keys.js";
import { picture } from "../picture.js";
import { bars, mark, plot } from "../plots.js";

const FIRST = 8; // examples of a kind, until more are asked for

export default async function render(main, { key, region, all }) {
  const related = get(api(key, `/regions/${region}/relatives`));
  const partners = get(api(key, `/regions/${region}/partners`));
  for (const later of [related, partners]) later.catch(() => {}); // told where it is shown
  const r = await get(api(key, `/regions/${region}`));
  document.title = `Region ${region}: ${visible(r.label.text)}`;
  const m = r.members;
  put(
    main,
    heading(r, levels(all, key).length > 1, blocks(all, key).length > 1),
    notice(r.not_annotated),
    notice(r.labels_error, "error"),
    labelling(r),
    keeping(r),
    numbers(r),
    h(
      "div",
      { class: "sides" },
      h("div", {}, provenance(r), m ? examples(r) : null, m ? lenses(m, r.beyond) : null),
      h("div", {}, m && m.members ? histogram(r) : null, m ? frequent(m) : null, neighbours(r), relatives(related), elsewhere(r, partners, all.dictionaries.find((d) => d.key === key).site)),
    ),
  );
  onKey("n", () => move(r, 1));
  onKey("p", () => move(r, -1));
}

function move(r, step) {
  const to = r.region + step;
  if (to >= 0 && to < r.k) location.assign(regionPage(r.key, to));
}

function heading(r, inTree, inRow) {
  const link = (text, to, title) => (to >= 0 && to < r.k ? h("a", { href: regionPage(r.key, to), "aria-label": title, title }, text) : h("span", { class: "dim" }, text));
  return h(
    "div",
    { class: "heading" },
    h("h1", {}, `Region ${r.region} `, token(r.exemplar.token)),
    h("span", { class: "turn" }, h("a", { href: page(r.key, `/steer?region=${r.region}`), title: "act on this region while the model writes" }, "Steer"), " · ", inTree && [h("a", { href: page(r.key, `/tree#${r.region}`) }, "In the tree"), " · "], inRow && [h("a", { href: page(r.key, `/layers?region=${r.region}#follow`), title: "its nearest regions in the blocks before and after" }, "Through layers"), " · "], link("‹ previous", r.region - 1, "previous region, key p"), " · ", link("next ›", r.region + 1, "next region, key n")),
  );
}

const SOURCES = { hand: "by hand", contrast: "by contrast with nearby regions", tokens: "made from its tokens" };
const DETECTION = "how well the label's words tell held-out members from members of other regions: 1 is certain, .5 is chance";

function labelling(r) {
  const text = h("bdi", { class: "label big" });
  const source = h("span", { class: "dim" });
  const problem = h("div", { "aria-live": "assertive" });
  const box = h("input", { type: "text", maxlength: "200", "aria-label": "Label", autocomplete: "off", placeholder: "empty: no label of your own" });
  const form = h("form", { class: "bar", hidden: true }, box, h("button", {}, "Save"), h("button", { type: "button", onclick: () => close() }, "Cancel"));
  const edit = h("button", { type: "button", onclick: () => open() }, "Edit label");
  const show = ({ text: label, source: from, score }) => {
    text.textContent = visible(label);
    source.textContent = (SOURCES[from] ?? `by ${visible(from.replace(/^(endpoint|local):/, ""))}`) + (score === null ? "" : `, detection ${fixed(score, 2)}`);
    source.title = DETECTION;
    box.value = from === "hand" ? label : "";
  };
  const open = () => {
    form.hidden = false;
    box.focus();
    box.select();
  };
  const close = () => {
    form.hidden = true;
    problem.replaceChildren();
    edit.focus();
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const now = await post(api(r.key, `/regions/${r.region}/label`), { text: box.value });
      show({ text: now.label, source: now.source, score: now.score });
      close();
      status("Label saved");
    } catch (error) {
      problem.replaceChildren(notice(error.message, "error"));
    }
  });
  form.addEventListener("keydown", (event) => event.key === "Escape" && close());
  onKey("e", open);
  show(r.label);
  return h("div", { class: "labelling" }, h("p", {}, text, " ", source, " ", edit), form, problem);
}

// Lists in the dictionary's folder that the region is in, and the region as a card to send.
function keeping(r) {
  const [kept, problem] = [h("span"), h("span", { "aria-live": "assertive" })];
  const name = h("input", { type: "text", maxlength: "60", size: "14", list: "lists", "aria-label": "List to put it into", placeholder: "a list, e.g. to read" });
  const names = h("datalist", { id: "lists" });
  const show = ({ lists }) => {
    const within = Object.keys(lists).filter((list) => lists[list].includes(r.region));
    kept.replaceChildren(...within.flatMap((list) => [h("a", { href: `${page(r.key, "/regions")}?${new URLSearchParams({ list })}` }, visible(list)), h("button", { type: "button", class: "quiet", "aria-label": `take it out of ${visible(list)}`, onclick: () => change(list, false) }, "×"), " "]));
    names.replaceChildren(...Object.keys(lists).map((list) => h("option", { value: list })));
  };
  async function change(list, keep) {
    try {
      show(await post(api(r.key, "/bookmarks"), { list, region: r.region, kept: keep }));
      problem.replaceChildren();
      status(keep ? "Kept" : "Taken out");
    } catch (error) {
      problem.replaceChildren(notice(error.message, "error"));
    }
  }
  const card = `/api/${api(r.key, `/regions/${r.region}/card`)}`;
  const draw = () => picture(card, `${r.key}-${r.region}.png`).catch((error) => problem.replaceChildren(notice(error.message, "error")));
  const form = h(
    "form",
    { class: "bar keeping", onsubmit: (event) => (event.preventDefault(), change(name.value, true)) },
    h("span", { class: "dim" }, "In lists"), kept, name, names, h("button", {}, "Keep"),
    h("span", { class: "dim" }, "Card to send:"), h("a", { href: card, download: "" }, "HTML"), h("button", { type: "button", onclick: draw }, "PNG"),
  );
  get(api(r.key, "/bookmarks")).then(show, (error) => problem.replaceChildren(notice(error.message, "error")));
  return h("div", {}, form, problem);
}

function numbers(r) {
  const m = r.members;
  const pairs = [[r.size_is === "members" ? "Members" : "Online count", `${count(r.size)} (rank ${count(r.size_rank)} of ${count(r.k)})`]];
  if (m) {
    pairs.push(
      ["Share", percent(r.member_share)],
      ["Within θ", m.members ? percent(m.within / m.members) : "–", "share of the members within the threshold"],
      ["One word", r.interest.identity === null ? "\u2013" : percent(r.interest.identity), "share of the members that are the commonest word"],
      ["Documents", count(r.interest.documents), "different documents among the examples"],
      ["Coherence", fixed(m.coherence), "length of the mean of the members' directions"],
      ["Mean distance", m.mean_distance === null ? "–" : `${fixed(m.mean_distance)} ± ${fixed(m.std_distance)}`, "cosine distance of members to the exemplar"],
      ["Stability", fixed(m.stability), "agreement of the two halves of the text"],
      ["Mean to exemplar", fixed(r.mean_cosine), "cosine of the mean direction and the exemplar"],
    );
  }
  return facts(pairs);
}

function provenance(r) {
  const e = r.exemplar;
  const [space, word] = parted(e.token);
  const name = r.members && !r.members.members ? notice("No token of the annotated text belongs to this region.") : null;
  return section(
    "Exemplar",
    h("p", { class: "text" }, h("bdi", {}, visible(e.context), space, h("mark", {}, visible(word) || "∅"))),
    h("p", { class: "dim", title: visible(e.document) }, `${visible(e.document.split("/").at(-1))}, token ${count(e.position)} · id ${e.token_id} · norm ${fixed(e.raw_norm, 1)} · activation ${count(e.arrival_index)} of the stream · ${count(e.arrivals)} arrivals · `, h("code", {}, e.content_id), " · ", h("a", { href: page(r.key, `/token?region=${r.region}`) }, "nearest regions, and in other dictionaries")),
    name,
  );
}

function examples(r) {
  if (!r.examples.length) return null;
  const kinds = ["nearest", "random", "farthest"];
  const list = h("ol", { class: "examples" });
  const buttons = kinds.map((kind) => h("button", { type: "button", onclick: () => show(kind) }, kind));
  const show = (kind, all = false) => {
    const rows = r.examples.filter((example) => example.kind === kind);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(kinds[i] === kind)));
    list.replaceChildren(...rows.slice(0, all ? rows.length : FIRST).map((example) => one(r.threshold, example, aboutExample(r.key, example))));
    const more = rows.length - FIRST;
    if (!all && more > 0) list.append(h("li", { class: "more" }, h("button", { type: "button", onclick: () => show(kind, true) }, `${more} more`)));
  };
  show("nearest");
  return section("Members", h("div", { class: "bar choice", role: "group", "aria-label": "Which members" }, buttons), legend(r.threshold), list, more(r));
}

function lenses(m, beyond) {
  const list = (name, what, rows) =>
    table(`${name} ${what}`, [[what, (row) => token(row.token), ""], ["probability", (row) => percent(row.probability), "num"], ["lift", (row) => lift(row.lift), "num"]], rows, { class: "small" });
  const pair = (name, top, bottom) =>
    h("div", {}, h("h3", {}, name), top.length ? h("div", { class: "pair" }, list(name, "promotes", top), list(name, "suppresses", bottom)) : h("p", { class: "dim" }, "none"));
  const words = "what a step from the centre along the direction makes likelier, and less likely, to come next: probability, and how it changes";
  const contrast = beyond.length
    ? table("Next tokens", [["promotes", (row) => token(row.token), ""], ["probability", (row) => percent(row.probability), "num"], ["against the average region", (row) => lift(row.beyond), "num"]], beyond, { class: "small" })
    : h("p", { class: "dim" }, "It promotes what the average region promotes.");
  const whole = h("details", {}, h("summary", {}, "Against the centre: exemplar, and mean of members"), h("p", { class: "dim" }, words), pair("Exemplar", m.lens_top, m.lens_bottom), pair("Mean of members", m.mean_lens_top, m.mean_lens_bottom));
  return section("What it promotes", contrast, whole);
}

function frequent(m) {
  const list = (caption, rows) =>
    table(caption, [[caption, (row) => token(row.token), ""], ["count", (row) => count(row.count), "num"], ["lift", (row) => lift(row.lift), "num"]], rows, { class: "small" });
  if (!m.members) return null;
  return section("Tokens", h("div", { class: "pair" }, list("at", m.top_tokens), list("before", m.before_tokens)));
}

function histogram(r) {
  const { width, counts } = r.histogram;
  const last = Math.max(counts.findLastIndex((n) => n > 0), Math.ceil(r.threshold / width)) + 1;
  const m = r.members;
  return plot(
    "Distances of members to the exemplar",
    `${percent(m.within / m.members)} of ${count(m.members)} members lie within θ = ${fixed(r.threshold, 4)}; the mean distance is ${fixed(m.mean_distance)}.`,
    () => ({
      data: [bars(counts.slice(0, last), 0, width, "%{y:,} members at %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>")],
      x: ["cosine distance", {}],
      y: ["members", {}],
      ...mark(r.threshold, "θ"),
    }),
  );
}

const rows = (key, caption, regions, sizeIs) =>
  table(
    caption,
    [
      ["Region", (row) => h("a", { href: regionPage(key, row.region) }, row.region), "num"],
      ["Label", (row) => h("bdi", { class: "label" }, visible(row.label)), "grow"],
      ["cosine", (row) => fixed(row.cosine), "num"],
      [sizeIs, (row) => count(row.size), "num"],
    ],
    regions,
    { class: "small" },
  );

function neighbours(r) {
  return r.neighbours.length ? section("Nearest regions", rows(r.key, "Nearest regions", r.neighbours, "size")) : null;
}

function relatives(related) {
  const place = h("div", {}, h("p", { class: "dim" }, "looking ..."));
  related.then(
    ({ relatives: found }) => {
      const parts = found.map((other) =>
        h(
          "div",
          {},
          h("h3", {}, `${other.relation} at `, h("a", { href: page(other.key) }, `p${other.percentile}`), other.relation === "children" ? `: ${count(other.count)}` : ""),
          other.count ? rows(other.key, `${other.relation} at p${other.percentile}`, other.regions, "size") : h("p", { class: "dim" }, "none"),
          other.count > other.regions.length ? h("p", { class: "dim" }, `the ${other.regions.length} nearest of ${count(other.count)}`) : null,
        ),
      );
      place.replaceChildren(...(parts.length ? parts : [h("p", { class: "dim" }, "No other percentile of this site is here.")]));
    },
    (error) => place.replaceChildren(notice(error.message, "error")),
  );
  return section("At other percentiles", place);
}

// Its nearest region in dictionaries of other builds, where there are any.
function elsewhere(r, partners, site) {
  const place = h("div");
  partners.then(
    ({ partners: found }) => {
      if (!found.length) return;
      const rows = table(
        "In other builds",
        [
          ["Dictionary", (row) => h("a", { href: page(row.key), title: named(row) }, row.site === site ? `${row.build} p${row.percentile}` : named(row)), ""],
          ["Region", (row) => h("a", { href: regionPage(row.key, row.region.region) }, row.region.region), "num"],
          ["Label", (row) => h("bdi", { class: "label" }, visible(row.region.label)), "grow"],
          ["cosine", (row) => fixed(row.cosine), "num"],
          ["both ways", (row) => (row.mutual ? "yes" : "no"), "wide"],
          ["matching", (row) => h("a", { href: `/compare?${new URLSearchParams({ a: r.key, b: row.key })}` }, row.verdict ?? "match"), ""],
        ],
        found,
        { class: "small" },
      );
      const caveats = new Set(found.map((row) => row.caveat).filter(Boolean));
      put(place, section("In other builds", [...caveats].map((text) => h("p", { class: "dim" }, text)), rows));
    },
    (error) => place.append(notice(error.message, "error")),
  );
  return place;
}
