"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const number = new Intl.NumberFormat("en");
const axis = { zeroline: false, automargin: true, fixedrange: true, tickformat: "~s" };
const clear = "rgba(0,0,0,0)";

function line(id, points, x, y, unit) {
  const trace = {
    x: points.map((p) => p[0]),
    y: points.map((p) => p[1]),
    mode: points.length > 1 ? "lines" : "markers",
    line: { width: 2 },
    hovertemplate: `%{x:,}: %{y:,} ${unit}<extra></extra>`,
  };
  const layout = {
    margin: { l: 50, r: 10, t: 8, b: 42 },
    paper_bgcolor: clear,
    plot_bgcolor: clear,
    font: { family: "inherit", size: 12 },
    xaxis: { ...axis, ...x },
    yaxis: { ...axis, ...y },
  };
  return Plotly.newPlot(id, [trace], layout, { displayModeBar: false, responsive: true });
}

// Seen on light ground and on dark; page.css shows the same scale below the map.
const scale = [[0, "#3d7fc4"], [0.5, "#9b8fa8"], [1, "#ee9327"]];

function circles(regions, marker) {
  const largest = Math.max(1, data.members.reduce((a, b) => Math.max(a, b), 0));
  const room = document.getElementById("map").clientWidth / 1040;
  const widest = (30 * Math.sqrt(room)) / Math.max(1, Math.sqrt(data.x.length / 400));
  return {
    type: "scatter", // not WebGL: that takes eval, a graphics driver, and does not print
    mode: "markers",
    x: regions.map((i) => data.x[i]),
    y: regions.map((i) => data.y[i]),
    customdata: regions,
    hoverinfo: "none",
    marker: { size: regions.map((i) => 1.5 + 1.5 * room + widest * Math.sqrt(data.members[i] / largest)), opacity: 0.8, line: { width: 0 }, ...marker },
  };
}

function map(place) {
  const order = data.members.map((_, i) => i).sort((a, b) => data.members[b] - data.members[a]); // small ones on top
  const known = order.filter((i) => data.coherence[i] !== null);
  const color = known.map((i) => data.coherence[i]);
  const [low, high] = [color.reduce((a, b) => Math.min(a, b), 1), color.reduce((a, b) => Math.max(a, b), 0)];
  document.getElementById("low").textContent = low.toFixed(2);
  document.getElementById("high").textContent = high.toFixed(2);
  const traces = [
    circles(order.filter((i) => data.coherence[i] === null), { color: "#88919b" }),
    circles(known, { color, colorscale: scale, cmin: low, cmax: high }),
  ];
  const bare = { visible: false, zeroline: false, showgrid: false };
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 },
    paper_bgcolor: clear,
    plot_bgcolor: clear,
    font: { family: "inherit", size: 11 },
    dragmode: "pan",
    hovermode: "closest",
    showlegend: false,
    xaxis: { ...bare, constrain: "range" },
    yaxis: { ...bare, scaleanchor: "x" },
    modebar: { bgcolor: clear, orientation: "v" },
  };
  const buttons = [["zoomIn2d", "zoomOut2d", "resetScale2d"]];
  return Plotly.newPlot(place, traces, layout, { responsive: true, displayModeBar: true, modeBarButtons: buttons, displaylogo: false });
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

function show(tip, place, i, event) {
  const coherence = data.coherence[i] === null ? "" : `, coherence ${data.coherence[i].toFixed(2)}`;
  const listed = shown.has(i) ? ["click to see its examples"] : [];
  const members = data.members[i] === 1 ? "member" : "members";
  const lines = [`${number.format(data.members[i])} ${members}${coherence}`, ...listed];
  tip.replaceChildren(element("b", `Region ${i}`), element("bdi", data.labels[i]), ...lines.map((text) => element("span", text)));
  tip.hidden = false;
  const frame = place.getBoundingClientRect();
  const x = event.clientX - frame.left;
  const y = event.clientY - frame.top;
  tip.style.left = `${Math.max(0, Math.min(x + 14, frame.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight < frame.height ? y + 18 : y - tip.offsetHeight - 10}px`;
}

const shown = new Set(data.shown);
const log = { type: "log", dtick: 1 };
line("sizes", data.sizes, { ...log, title: { text: "rank" } }, { ...log, title: { text: "members" } }, "members");
const few = { ...log, dtick: "D2", tickformat: "~s" };
line("growth", data.growth, { ...few, title: { text: "activations streamed" } }, { ...few, title: { text: "regions" } }, "regions");

const place = document.getElementById("map");
const tip = document.getElementById("tip");
map(place).then(() => {
  place.on("plotly_hover", ({ points: [point], event }) => show(tip, place, point.customdata, event));
  place.on("plotly_unhover", () => (tip.hidden = true));
  place.on("plotly_click", ({ points: [point] }) => {
    if (shown.has(point.customdata)) location.hash = `region-${point.customdata}`;
  });
});
