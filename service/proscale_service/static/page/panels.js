// What stands beside the picture: labels, segments, cost, the same request as a program.
import { colourOf } from "./colours.js";

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

/** One checkbox per label. */
export function showLabels(fieldset, segments, hidden, onChange) {
  const counts = new Map();
  for (const segment of segments) counts.set(segment.label, (counts.get(segment.label) ?? 0) + 1);
  const boxes = [...counts].sort().map(([label, count]) => {
    const box = element("input", { type: "checkbox", checked: !hidden.has(label) });
    box.addEventListener("change", () => onChange(label, box.checked));
    return element("label", {}, box, `${label} (${count})`);
  });
  fieldset.replaceChildren(fieldset.querySelector("legend"), ...boxes);
}

/** One button per visible segment, largest first; focus or hover shows it in the picture. */
export function showSegments(list, segments, visible, onShow) {
  const rows = [...visible]
    .sort((a, b) => segments[b].area - segments[a].area)
    .map((index) => {
      const segment = segments[index];
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = `rgb(${colourOf(segment).join(" ")})`;
      const button = element(
        "button",
        { type: "button" },
        swatch,
        element("span", {}, segment.label),
        element("span", { className: "number" }, segment.score.toFixed(2)),
        element("span", { className: "number" }, `${segment.area} px`),
      );
      button.setAttribute("aria-label", describe(segment));
      button.dataset.index = index;
      for (const name of ["focus", "pointerenter"]) button.addEventListener(name, () => onShow(index));
      for (const name of ["blur", "pointerleave"]) button.addEventListener(name, () => onShow(-1));
      return element("li", {}, button);
    });
  list.replaceChildren(...rows);
}

export const describe = (segment) => `${segment.label}, score ${segment.score.toFixed(2)}, ${segment.area} pixels`;

/** FLOPs against the baseline's, and milliseconds by stage, as two small bar charts that are text for a screen reader. */
export function showCost(box, answer) {
  const { flops, baseline_flops: baseline, saved_ratio: saved, padded_size: padded } = answer.compute;
  const [other] = answer.compute.baseline.split(" with "); // "Mask2Former with 6 encoder layers", or "the network as published"
  const percent = Math.round(100 * Math.abs(saved));
  const compared = percent ? `${percent}% ${saved > 0 ? "less" : "more"} than ${other}` : `as many as ${other}`;
  const giga = (value) => `${(value / 1e9).toFixed(2)} G`;
  const stages = Object.entries(answer.timings_ms);
  const longest = Math.max(...stages.map(([, ms]) => ms), 1);
  box.replaceChildren(
    element("p", {}, `${giga(flops)}FLOPs at ${padded[1]}x${padded[0]}: ${compared}.`),
    chart([["this model", flops / baseline, giga(flops), "saved"], [other, 1, giga(baseline)]]),
    element("p", {}, `${Math.round(stages.reduce((sum, [, ms]) => sum + ms, 0))} ms by stage`),
    chart(stages.map(([name, ms]) => [name, ms / longest, `${ms.toFixed(1)} ms`])),
  );
}

function chart(rows) {
  return element(
    "dl",
    { className: "chart" },
    ...rows.flatMap(([name, share, text, kind]) => {
      const fill = element("span", { className: `bar-fill ${kind ?? ""}` });
      fill.style.width = `${Math.min(1, share) * 70}%`;
      return [element("dt", {}, name), element("dd", {}, fill, text)];
    }),
  );
}

/** The request as curl and as Python; where there is a key, they read it from the environment. */
export function showPrograms(curl, python, name, parameters, withKey) {
  const address = new URL("segment", document.baseURI).href;
  // curl ends a file's name at commas and semicolons unless it stands in quotes.
  const quoted = /[",;\\]/.test(name) ? `"${name.replaceAll(/["\\]/g, "\\$&")}"` : name;
  const file = quoted.replaceAll("'", "'\\''");
  const key = withKey ? ' -H "x-api-key: $PROSCALE_API_KEY"' : "";
  const fields = Object.entries(parameters).map(([key, value]) => ` -F ${key}=${value}`);
  curl.textContent = `curl${key} -F 'image=@${file}'${fields.join("")} ${address}`;
  const named = Object.entries(parameters).map(([key, value]) => `, ${key}=${typeof value === "number" ? value : JSON.stringify(value)}`);
  python.textContent = [
    ...(withKey ? ["import os", ""] : []),
    "from proscale_service.client import Client",
    "",
    `with Client(${JSON.stringify(new URL(".", document.baseURI).href.replace(/\/$/, ""))}${withKey ? ', api_key=os.environ["PROSCALE_API_KEY"]' : ""}) as client:`,
    `    answer = client.segment(${JSON.stringify(name)}${named.join("")})`,
    "    for segment in answer.segments:",
    "        print(segment.label, segment.score, segment.mask.sum())",
  ].join("\n");
}
