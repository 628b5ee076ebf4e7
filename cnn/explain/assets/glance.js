// The whole network in one picture: image, layers, loss; the arrows forward and backward; the update of the weights.
// It is lit where the reader is: glanceAt(phase, node). phase: forward, loss, backward, update or all.

const glance = { phase: "forward", node: null, room: 0 };

const blockKind = (node) => (node.parameters.length ? "weighted" : "plain");

// A map is as wide as it is, on a logarithmic scale; a vector is a bar as long as it is.
function blockSize(node, room, height) {
  const [first, rows = 0, columns = 0] = node.shape;
  if (rows * columns <= 1) return [Math.max(3, Math.min(9, room * 0.2)), Math.max(10, Math.min(1, Math.log2(first + 1) / 8) * height)];
  const side = Math.max(5, Math.min(room - 7, height * 0.72) * Math.min(1, Math.log2(Math.max(rows, columns) + 1) / 4.9));
  return [side, side];
}

// The channel with the largest number, or a vector from top to bottom, as a picture.
const blockPictures = new WeakMap(); // values -> { theme: picture }

function blockPicture(node, tensor) {
  const { data } = tensorOf(node, tensor), kept = blockPictures.get(data) ?? {};
  blockPictures.set(data, kept);
  return (kept[app.theme] ??= drawBlock(node, data));
}

function drawBlock(node, data) {
  const { maxAt, minAt, max, min, size } = statisticsOf(data), [, rows = 1, columns = 1] = node.shape;
  const plane = rows * columns, from = plane > 1 ? Math.floor((-min > max ? minAt : maxAt) / plane) * plane : 0;
  const values = plane > 1 ? data.subarray(from, from + plane) : data;
  return cellColours(values, plane > 1 ? columns : 1, plane > 1 ? rows : data.length, size, palettes[app.theme]).toDataURL();
}

function layerBlock(node, middle, x, room, height) {
  const [w, tall] = blockSize(node, room, height), left = x + (room - w) / 2, top = middle - tall / 2, map = node.shape.length === 3 && node.shape[1] > 1;
  const tensor = glance.phase === "backward" ? "dy" : "y", behind = map ? [4, 2] : [];
  return [s("a", { href: `#/network/${cellKey(largestCell(node, tensor))}`, class: `block ${blockKind(node)}`, "data-node": node.id, tabindex: -1 },
    s("title", {}, `${nodeTitle(node)} · ${shapeText(node.shape)}`),
    s("rect", { class: "hit", x, y: middle - height / 2 - 5, width: room, height: height + 10, rx: 5 }),
    behind.map((by) => s("rect", { class: "behind", x: left + by, y: top - by, width: w, height: tall, rx: 1.5 })),
    room > 9 ? s("image", { x: left, y: top, width: w, height: tall, href: blockPicture(node, tensor), preserveAspectRatio: "none" }) : null,
    s("rect", { class: "body", x: left, y: top, width: w, height: tall, rx: 1.5 }))];
}

function glancePicture(width) {
  const layers = nodes.slice(1, -1), height = 64, top = 36, middle = top + height / 2, left = 4, right = width - 4;
  const room = (right - left) / layers.length, low = top + height + (width < 520 ? 14 : 30), parts = [];
  let labelEnd = -Infinity;
  layers.forEach((node, k) => {
    const x = left + k * room, text = node.kind.replace(/2d$/, ""), half = 3.3 * text.length, at = x + room / 2;
    parts.push(...layerBlock(node, middle, x, room, height));
    if (width < 520 || at - half < Math.max(left, labelEnd + 4) || at + half > right + 4) return;
    labelEnd = at + half;
    parts.push(s("text", { class: "block-name", x: at, y: top + height + 16, "text-anchor": "middle" }, text));
  });
  const arrow = (phase, y, from, to, text) => [
    s("path", { class: `flow ${phase}`, d: `M${from},${y} L${to},${y}`, "marker-end": `url(#head-${phase})` }),
    s("text", { class: `flow-name ${phase}`, x: (from + to) / 2, y: phase === "forward" ? y - 7 : y + 16, "text-anchor": "middle" }, text)];
  const head = (phase) => s("marker", { id: `head-${phase}`, viewBox: "0 0 8 8", refX: 6, refY: 4, markerWidth: 5, markerHeight: 5, orient: "auto-start-reverse" }, s("path", { class: `tip ${phase}`, d: "M0,0 L8,4 L0,8 z" }));
  const short = width < 640;
  return s("svg", { class: "glance-svg", viewBox: `0 0 ${width} ${low + 22}`, width, height: low + 22, role: "group", "aria-label": t("glance.label") },
    s("defs", {}, head("forward"), head("backward")),
    arrow("forward", 22, left, right, t(short ? "glance.forward.short" : "glance.forward")), parts, arrow("backward", low, right, left, t(short ? "glance.backward.short" : "glance.backward")));
}

// Image, strip of layers, probabilities and loss; redrawn when the window's width changes.
function renderGlance() {
  const holder = h("div", { class: "glance-strip" }), thumb = shown(imageCanvas(), t("pictures.image"));
  thumb.classList.add("thumb");
  const p = lossNode.tensors.p.data, order = otherLoss ? answersShown().slice(0, 3) : [...p.keys()].sort((a, b) => p[b] - p[a] || a - b).slice(0, 3)
    .map((k) => ({ k, name: className(k), fill: p[k], right: Number(k === live.label), cell: cell(lossNode, "p", k) }));
  const draw = () => {
    if (!holder.room) return;
    const width = Math.max(240, Math.floor(holder.room)), drawn = `${width} ${glance.phase === "backward"}`;
    if (holder.drawn === drawn) return;
    holder.drawn = drawn;
    holder.replaceChildren(glancePicture(width));
    lightBlocks(holder);
  };
  holder.draw = draw;
  holder.room = glance.room; // until it is measured, that of the last time
  new ResizeObserver(([{ contentRect }]) => {
    glance.room = holder.room = contentRect.width;
    draw();
  }).observe(holder);
  const step = (phase) => h("span", { class: `loop-step ${phase}` }, t(`loop.${phase}`));
  return h("section", { class: "glance", id: "glance", "aria-label": t("glance.title") },
    h("div", { class: "glance-row" },
      h("figure", { class: "glance-image" }, thumb, h("figcaption", {}, t("glance.image"))), holder,
      h("div", { class: "glance-end" }, h("p", { class: "verdict", id: "verdict" }, verdictText()),
        h("ol", { class: "bars", "aria-label": t(otherLoss ? "page.answers" : "page.probabilities") }, order.map((row) => {
          const fill = h("span", { class: "fill" });
          fill.style.width = `${100 * row.fill}%`;
          const value = row.cell ? numberButton(row.cell, 3) : h("span", { class: "num" }, number(row.told, 3));
          return h("li", { class: row.right === 1 && lossKind !== "MSELoss" && lossKind !== "L1Loss" ? "truth" : null }, h("span", { class: "name" }, row.name), h("span", { class: "track", "aria-hidden": "true" }, fill), value);
        })),
        h("p", { class: "glance-loss" }, "L = ", numberButton(cell(lossNode, "y", 0)),
          otherLoss ? null : isBatch ? h("span", { class: "fine" }, ` ${t("batch.mean", { n: batchSize })}`) : live.smoothing || p[live.label] === 1 ? null : h("span", { class: "fine" }, ` = −ln ${probability(p[live.label])}`)))),
    h("p", { class: "loop", "aria-label": t("loop.label") }, ["forward", "loss", "backward", "update"].flatMap((phase, k) => [k ? h("span", { class: "loop-arrow", "aria-hidden": "true" }, "→") : null, step(phase)]),
      h("span", { class: "loop-arrow again", "aria-hidden": "true" }, "↺")));
}

function glanceAt(phase, node = null) {
  Object.assign(glance, { phase, node });
  lightGlance();
}

function lightBlocks(root) {
  for (const block of root.querySelectorAll(".block")) block.classList.toggle("here", Number(block.dataset.node) === glance.node?.id);
}

function lightGlance() {
  const root = byId("glance");
  if (!root) return;
  root.dataset.phase = glance.phase;
  root.querySelector(".glance-strip").draw();
  lightBlocks(root);
  root.querySelector(".glance-image").classList.toggle("here", glance.node === nodes[0]);
  root.querySelector(".glance-end").classList.toggle("here", glance.node === lossNode);
  for (const step of root.querySelectorAll(".loop-step")) {
    const on = glance.phase === "all" || step.classList.contains(glance.phase);
    step.classList.toggle("lit", on);
    if (on && glance.phase !== "all") step.setAttribute("aria-current", "step");
    else step.removeAttribute("aria-current");
  }
}
