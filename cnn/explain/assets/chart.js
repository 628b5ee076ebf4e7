// A small line chart in SVG: both axes linear or logarithmic, optional marks and a cursor.

const svgNamespace = "http://www.w3.org/2000/svg";

function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(svgNamespace, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) element.setAttribute(name, value);
  element.append(...children.flat().filter(Boolean));
  return element;
}

// series: [{ name, style, points: [[x, y, mark?]] }]; xLog needs x > 0, yLog y > 0 (other points are left out).
function chart({ series, xLog = true, yLog = false, xLabel, yLabel, label, cursor = null, yRange = null }) {
  const width = 640, height = 320, left = 70, right = 16, top = 14, bottom = 46;
  const across = (x) => (xLog ? Math.log10(x) : x);
  const usable = series.map((one) => ({ ...one, points: one.points.filter(([, y]) => Number.isFinite(y) && (!yLog || y > 0)) }));
  const xs = usable.flatMap((one) => one.points.map(([x]) => across(x))), ys = usable.flatMap((one) => one.points.map(([, y]) => (yLog ? Math.log10(y) : y)));
  if (!xs.length) return h("p", {}, t("chart.empty"));
  const x0 = Math.min(...xs), x1 = Math.max(...xs);
  let [y0, y1] = yRange ?? [Math.min(...ys), Math.max(...ys)];
  if (yLog) (y0 = Math.floor(y0)), (y1 = Math.ceil(y1));
  if (y0 === y1) (y0 -= 1), (y1 += 1);
  const X = (x) => left + ((across(x) - x0) / (x1 - x0 || 1)) * (width - left - right);
  const Y = (y) => top + (1 - ((yLog ? Math.log10(y) : y) - y0) / (y1 - y0)) * (height - top - bottom);
  const far = (v) => Math.max(-1e4, Math.min(1e4, v));
  const parts = [];
  const columns = xLog ? Array.from({ length: Math.max(0, Math.floor(x1) - Math.ceil(x0) + 1) }, (_, k) => Math.ceil(x0) + k).filter((k) => (k - Math.ceil(x0)) % Math.max(1, Math.ceil((x1 - x0) / 8)) === 0) : x1 > x0 ? niceTicks(x0, x1) : [x0];
  for (const k of columns) {
    const at = X(xLog ? 10 ** k : k);
    parts.push(s("line", { class: "grid", x1: at, x2: at, y1: top, y2: height - bottom }),
      s("text", { class: "tick", x: at, y: height - bottom + 18, "text-anchor": "middle" }, xLog ? `10${superscript(k)}` : number(k, 4)));
  }
  const ticks = yLog ? Array.from({ length: y1 - y0 + 1 }, (_, k) => y0 + k).filter((_, k) => k % Math.max(1, Math.ceil((y1 - y0) / 6)) === 0) : niceTicks(y0, y1);
  for (const y of ticks) {
    const at = Y(yLog ? 10 ** y : y);
    parts.push(s("line", { class: y === 0 && !yLog ? "axis" : "grid", x1: left, x2: width - right, y1: at, y2: at }),
      s("text", { class: "tick", x: left - 8, y: at + 4, "text-anchor": "end" }, yLog ? `10${superscript(y)}` : number(y, 3)));
  }
  for (const one of usable) {
    parts.push(s("polyline", { "clip-path": "url(#plot-area)", class: `line ${one.style}`, points: one.points.map(([x, y]) => `${X(x).toFixed(1)},${far(Y(y)).toFixed(1)}`).join(" ") }));
    for (const [x, y, mark] of one.points) if (mark) parts.push(s("circle", { class: `kink ${one.style}`, cx: X(x), cy: Y(y), r: 4.5 }));
  }
  if (cursor) parts.push(s("line", { class: "cursor", x1: X(cursor), x2: X(cursor), y1: top, y2: height - bottom }));
  parts.push(s("text", { class: "tick", x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, xLabel));
  const clip = s("clipPath", { id: "plot-area" }, s("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom }));
  return h("figure", { class: "chart" },
    h("figcaption", {}, h("span", { class: "fine" }, yLabel), usable.map((one) => h("span", { class: `key ${one.style}` }, one.name))),
    s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, s("defs", {}, clip), parts));
}

function niceTicks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((candidate) => candidate >= rough), ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) ticks.push(k * step || 0);
  return ticks;
}
