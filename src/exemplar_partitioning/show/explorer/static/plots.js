// Plots by plotly, fetched when the first one is drawn; every one says in words what it shows.

import { h } from "./dom.js";

// plotly adds a style sheet for street maps unless this element is there; the page's policy forbids it to.
const STREET_MAPS = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";

let loading;

export function plotly() {
  loading ??= new Promise((resolve, reject) => {
    document.head.append(h("meta", { id: STREET_MAPS }));
    const script = h("script", { src: "/static/plotly.min.js" });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly could not be loaded"));
    document.head.append(script);
  });
  return loading;
}

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 6 },
    gridcolor: color("line"),
    linecolor: color("line"),
    zeroline: false,
    automargin: true,
    fixedrange: true,
    exponentformat: "none",
    separatethousands: true,
    ...more,
  };
}

// draw() gives { data, layout } with axes as [title, options]; it is asked again when the theme changes.
export function plot(title, words, draw) {
  const place = h("div", { class: "plot", "aria-hidden": "true" });
  const figure = h("figure", { "aria-label": title }, h("h2", {}, title), place, h("figcaption", {}, words));
  const render = async () => {
    const Plotly = await plotly();
    const { data, x, y, shapes = [], annotations = [] } = draw();
    const layout = {
      margin: { l: 48, r: 12, t: 8, b: 40 },
      height: 220,
      showlegend: false,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "inherit", size: 12, color: color("dim") },
      hoverlabel: { bgcolor: color("raised"), bordercolor: color("line"), font: { color: color("text") } },
      xaxis: axis(...x),
      yaxis: axis(...y),
      shapes,
      annotations,
      bargap: 0.06,
    };
    await Plotly.react(place, data, layout, { displayModeBar: false, responsive: true });
  };
  addEventListener("theme", render);
  whenSeen(figure, render);
  return figure;
}

function whenSeen(element, action) {
  const observer = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      action();
    }
  }, { rootMargin: "200px" });
  observer.observe(element);
}

export const line = (points, name, hover) => ({
  type: "scatter",
  mode: points.length > 1 ? "lines" : "markers",
  x: points.map((p) => p[0]),
  y: points.map((p) => p[1]),
  name,
  line: { color: color("accent"), width: 2 },
  hovertemplate: hover,
});

// Bars of equal width from `start`, up to the last that holds something.
export function bars(counts, start, width, hover) {
  return {
    type: "bar",
    x: counts.map((_, i) => start + (i + 0.5) * width),
    y: counts,
    width: counts.map(() => width),
    customdata: counts.map((_, i) => [start + i * width, start + (i + 1) * width]),
    marker: { color: color("accent") },
    hovertemplate: hover,
  };
}

// Outlines of such bars.
export function outline(counts, start, width, hover) {
  return {
    type: "scatter",
    mode: "lines",
    x: [...counts.map((_, i) => start + i * width), start + counts.length * width],
    y: [...counts, 0],
    line: { color: color("dim"), width: 1.5, shape: "hv" },
    hovertemplate: hover,
  };
}

// A vertical line with a name, e.g. the threshold; the name on its right, or left.
export function mark(x, text, right = true) {
  return {
    shapes: [{ type: "line", x0: x, x1: x, yref: "paper", y0: 0, y1: 1, line: { color: color("mark"), width: 2, dash: "dot" } }],
    annotations: [{ x, yref: "paper", y: 1, text, showarrow: false, xanchor: right ? "left" : "right", xshift: right ? 4 : -4, yanchor: "top", font: { color: color("mark") } }],
  };
}
