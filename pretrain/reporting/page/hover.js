// Values under the pointer. The page is complete without it.
"use strict";
for (const chart of document.querySelectorAll(".chart:not(.strip)")) {
  const area = chart.querySelector(".area"), svg = area.querySelector("svg"), box = area.querySelector("output");
  const last = +chart.dataset.last, low = +chart.dataset.low, high = +chart.dataset.high, percent = chart.dataset.unit === "%";
  const cursor = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "path"));
  cursor.setAttribute("class", "cursor");
  let curves = null;
  const read = () => [...svg.querySelectorAll("g")].map(g => ({
    label: g.dataset.label,
    points: g.querySelector(".curve").getAttribute("d").slice(1).split("L").map(text => text.split(" ").map(Number)),
  }));
  const text = value => percent ? (100 * value).toPrecision(3) + " %" : +value.toPrecision(4);
  svg.addEventListener("pointermove", event => {
    curves ??= read();
    const frame = svg.getBoundingClientRect(), x = (event.clientX - frame.left) / frame.width * 1000;
    const lines = curves.map(({ label, points }) => {
      const nearest = points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
      return label + "  " + text(high - nearest[1] / 1000 * (high - low));
    });
    box.textContent = ["step " + Math.round(x / 1000 * last), ...lines].join("\n");
    box.hidden = false;
    cursor.setAttribute("d", `M${x} 0V1000`);
  });
  svg.addEventListener("pointerleave", () => {
    box.hidden = true;
    cursor.removeAttribute("d");
  });
}
