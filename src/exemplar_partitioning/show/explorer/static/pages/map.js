// All regions on a plane: near each other where their exemplars are. A click opens one.

import { api, page, patiently, regionPage } from "../api.js";
import { count, fixed, h, notice, put, status, visible } from "../dom.js";
import { color, plotly } from "../plots.js";

const SCALE = ["#5a58d6", "#b5408f", "#ee7b51", "#f5c83c"]; // seen on light and on dark ground
const NAMES = 45; // regions named at once
const ROOM = [85, 26]; // pixels of a name
const SHADES = [["size", "size"], ["coherence", "coherence"], ["stability", "stability"], ["distance", "mean distance"]];

export default async function render(main, { key }) {
  document.title = "Map";
  const place = h("div", { class: "map", "aria-hidden": "true" });
  const names = h("div", { class: "names", "aria-hidden": "true" });
  const scale = h("div", { class: "scale" });
  const tip = h("div", { class: "tip", hidden: true });
  const shade = h("select", { "aria-label": "Colour by" }, SHADES.map(([value, text]) => h("option", { value }, `colour: ${text}`)));
  const search = h("input", { type: "search", "aria-label": "Highlight regions", placeholder: "Highlight token or label", autocomplete: "off", spellcheck: "false" });
  const found = h("p", { class: "dim" }, "computing the layout ...");
  put(
    main,
    h("h1", {}, "Map"),
    h("div", { class: "bar" }, search, shade, found),
    h("p", { class: "hidden" }, "A scatter plot of all regions, for the eye and the pointer. ", h("a", { href: page(key, "/regions") }, "The list of regions"), " holds the same regions as text."),
    h("div", { class: "frame" }, place, names, scale, tip),
  );
  let data, Plotly;
  try {
    [data, Plotly] = await Promise.all([patiently(api(key, "/map"), {}, (seconds) => (found.textContent = `computing the layout, for ${Math.round(seconds)} s now ...`)), plotly()]);
  } catch (error) {
    found.textContent = "";
    put(main, notice(error.message, "error"));
    return;
  }
  const said = `${count(data.x.length)} regions, area by ${data.size_is}; click opens, drag pans, wheel zooms`;
  found.textContent = said;
  status(said);
  const known = SHADES.filter(([name]) => data[name].some((value) => value !== null));
  shade.replaceChildren(...known.map(([value, text]) => h("option", { value }, `colour: ${value === "size" ? data.size_is : text}`)));

  let matches = [];
  const draw = async () => {
    legend(scale, data, shade.value);
    await Plotly.react(place, traces(data, shade.value, matches), layout(place, data), { responsive: true, scrollZoom: true, displayModeBar: false });
    name(names, data, place);
  };
  await draw();
  place.on("plotly_hover", ({ points: [point], event }) => point.customdata !== undefined && showTip(tip, place, data, point.customdata, event));
  place.on("plotly_unhover", () => (tip.hidden = true));
  place.on("plotly_click", ({ points: [point] }) => point.customdata !== undefined && location.assign(regionPage(key, point.customdata)));
  place.on("plotly_relayouting", () => names.replaceChildren()); // until it rests
  place.on("plotly_relayout", () => name(names, data, place));
  shade.addEventListener("change", draw);
  addEventListener("theme", draw);
  search.addEventListener("input", () => {
    matches = matching(data, search.value);
    found.textContent = search.value ? `${count(matches.length)} regions highlighted` : said;
    status(found.textContent);
    draw();
  });
}

function matching(data, text) {
  const wanted = text.toLowerCase();
  if (!wanted) return [];
  return data.token.keys().filter((i) => data.token[i].toLowerCase().includes(wanted) || data.label[i].toLowerCase().includes(wanted)).toArray();
}

// What is coloured: a number for each region, with the least and the largest.
function shading(data, shade) {
  const values = shade === "size" ? data.size.map((size) => Math.log10(1 + size)) : data[shade];
  const known = values.filter((value) => value !== null);
  const ends = [known.reduce((a, b) => Math.min(a, b), Infinity), known.reduce((a, b) => Math.max(a, b), -Infinity)];
  return { values, ends };
}

function traces(data, shade, matches) {
  const largest = data.size.reduce((a, b) => Math.max(a, b), 1);
  const { values, ends: [least, most] } = shading(data, shade);
  const scale = 30 / Math.sqrt(Math.max(1, data.x.length / 1000));
  const sizes = data.size.map((size) => 3 + scale * Math.sqrt(size / largest));
  const shared = { type: "scattergl", mode: "markers", hoverinfo: "none" };
  const all = {
    ...shared,
    x: data.x,
    y: data.y,
    customdata: data.x.map((_, i) => i),
    marker: {
      size: sizes,
      color: values.map((value) => value ?? least),
      colorscale: SCALE.map((value, i) => [i / (SCALE.length - 1), value]),
      cmin: least,
      cmax: most,
      opacity: matches.length ? 0.15 : 0.75,
      line: { width: 0 },
    },
  };
  if (!matches.length) return [all];
  const chosen = {
    ...shared,
    x: matches.map((i) => data.x[i]),
    y: matches.map((i) => data.y[i]),
    customdata: matches,
    marker: { size: matches.map((i) => sizes[i] + 3), color: color("mark"), line: { width: 1, color: color("ground") } },
  };
  return [all, chosen];
}

function layout(place, data) {
  const bare = { visible: false, zeroline: false, showgrid: false };
  const [x, y] = [reach(data.x), reach(data.y)];
  return {
    autosize: true,
    height: place.clientHeight,
    margin: { l: 0, r: 0, t: 0, b: 0 },
    xaxis: { ...bare, range: x },
    yaxis: { ...bare, range: y, scaleanchor: "x" },
    dragmode: "pan",
    hovermode: "closest",
    showlegend: false,
    uirevision: "kept", // the zoom stays when colours change
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "inherit", size: 12, color: color("dim") },
  };
}

// From the least to the greatest, and a little more.
function reach(values) {
  const [least, most] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const margin = 0.03 * (most - least) + 0.01;
  return [least - margin, most + margin];
}

// Tokens of the largest regions in view that have room for one.
function name(names, data, place) {
  const { xaxis, yaxis } = place._fullLayout;
  const taken = [];
  for (const i of bySize(data)) {
    const [x, y] = [xaxis.d2p(data.x[i]), yaxis.d2p(data.y[i])];
    const seen = x > 0 && x < xaxis._length && y > 0 && y < yaxis._length;
    if (seen && data.token[i].trim() && taken.every((other) => Math.abs(other.x - x) > ROOM[0] || Math.abs(other.y - y) > ROOM[1])) taken.push({ i, x, y });
    if (taken.length === NAMES) break;
  }
  names.replaceChildren(...taken.map(({ i, x, y }) => h("bdi", { style: { left: `${x + xaxis._offset}px`, top: `${y + yaxis._offset}px` } }, visible(data.token[i].trim().slice(0, 14)))));
}

function bySize(data) {
  data.bySize ??= data.size.map((_, i) => i).sort((a, b) => data.size[b] - data.size[a]);
  return data.bySize;
}

function legend(scale, data, shade) {
  const { ends } = shading(data, shade);
  const name = shade === "size" ? data.size_is : SHADES.find(([value]) => value === shade)[1];
  const [least, most] = ends.map((x) => (shade === "size" ? count(Math.round(10 ** x - 1)) : fixed(x, 2)));
  scale.replaceChildren(h("span", {}, `${name}: ${least}`), h("i", { style: { background: `linear-gradient(to right, ${SCALE})` } }), h("span", {}, most));
}

function showTip(tip, place, data, i, event) {
  tip.replaceChildren(
    h("b", {}, `Region ${i} · `, h("bdi", {}, visible(data.token[i]) || "∅")),
    h("bdi", {}, visible(data.label[i])),
    h("span", { class: "dim" }, `${count(data.size[i])} ${data.size_is}`, data.coherence[i] === null ? "" : ` · coherence ${fixed(data.coherence[i], 2)}`),
  );
  tip.hidden = false;
  const frame = place.getBoundingClientRect();
  const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
  tip.style.setProperty("left", `${Math.max(0, Math.min(x + 14, frame.width - tip.offsetWidth - 4))}px`);
  tip.style.setProperty("top", `${y + 18 + tip.offsetHeight < frame.height ? y + 18 : y - tip.offsetHeight - 10}px`);
}
