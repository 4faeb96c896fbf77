"use strict";
// Everything is readable without this; it adds sorting, values under the pointer, and a dark/light switch.

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

for (const table of document.querySelectorAll("table.sort")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const sorted = head.getAttribute("aria-sort"); // numbers start with the largest, words with A
    const down = head.className === "n" ? sorted !== "descending" : sorted === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const missing = (row) => value(row) === "–"; // stays last either way
    const compare = (a, b) => a - b || a.localeCompare(b, undefined, { numeric: true });
    const rows = [...table.tBodies[0].rows].sort(
      (a, b) => missing(a) - missing(b) || compare(value(a), value(b)) * (down ? -1 : 1));
    table.tBodies[0].append(...rows);
  }));
}

const SVG = "http://www.w3.org/2000/svg";
const shape = (name, attributes) => {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

for (const svg of document.querySelectorAll("svg[data-hover]")) {
  const { x, series } = JSON.parse(svg.dataset.hover);
  const marks = shape("g", {});
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  svg.append(marks);
  svg.parentNode.append(tip);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    marks.replaceChildren();
    const words = series.map((line, number) => {
      let best = 0;
      line.px.forEach((p, i) => { if (Math.abs(p - at) < Math.abs(line.px[best] - at)) best = i; });
      if (number === 0) marks.append(shape("line", { class: "cursor", x1: line.px[best], x2: line.px[best], y1: 12, y2: 196 }));
      if (line.ys[best] === null) return `${line.name} –`;
      marks.append(shape("circle", { class: `dot c${number % 6}`, cx: line.px[best], cy: line.py[best], r: 4 }));
      return `${number === 0 ? `${x} ${line.xs[best]} · ` : ""}${series.length > 1 ? `${line.name} ` : ""}${line.ys[best]}`;
    });
    tip.textContent = words.join(" · ");
    tip.hidden = false;
  });
  svg.addEventListener("pointerleave", () => { marks.replaceChildren(); tip.hidden = true; });
}
