// Tokens coloured by how near they lie to an exemplar.

import { fixed, h, parted, visible } from "./dom.js";

// 1 at distance 0, a third at the threshold, 0 where nothing is shared.
export function warmth(distance, threshold) {
  if (distance === null) return 0;
  const edge = Math.min(threshold, 0.95);
  return distance <= edge ? 1 - (2 / 3) * (distance / edge) : Math.max(0, (1 / 3) * (1 - (distance - edge) / (1 - edge)));
}

export function warm(text, distance, threshold, props = {}, tag = "span") {
  const near = distance !== null && distance <= threshold;
  const said = distance === null ? "no direction" : `distance ${fixed(distance)}${near ? ", within θ" : ""}`;
  const [space, word] = parted(text);
  const look = { class: `warm ${near ? "near" : ""} ${props.class ?? ""}`, style: { "--warmth": `${Math.round(100 * warmth(distance, threshold))}%` } };
  return [space, h(tag, { title: said, ...props, ...look }, visible(word) || "∅")];
}

export const legend = (threshold) =>
  h("p", { class: "dim legend" }, "colour: distance to the exemplar, ", [0, threshold / 2, threshold, 1].map((x) => [warm(x.toFixed(2), x, threshold), " "]), `underlined: within θ = ${fixed(threshold, 4)}`);

// Hues far apart, by the order in which regions occur, so that they stay as one types on.
export function far() {
  const seen = new Map();
  return (region) => seen.get(region) ?? seen.set(region, `${(seen.size * 137.508 + 40) % 360}deg`).get(region);
}
