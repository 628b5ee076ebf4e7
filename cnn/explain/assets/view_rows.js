// The list of layers, image first. Each row: one map (activation or gradient, as the switch says), its numbers, and on
// request everything else: weights, gradients, derivation, NumPy reference.

const opened = new Set(); // ids of rows whose details are shown

function settingsText(node) {
  const a = node.attrs, parts = [], pairText = ([x, y]) => (x === y ? `${x}` : `${x} × ${y}`);
  if (a.kernel_size) parts.push(`${a.kernel_size[0]} × ${a.kernel_size[1]}`);
  if (a.stride && (a.stride[0] !== 1 || a.stride[1] !== 1)) parts.push(t("set.stride", { n: pairText(a.stride) }));
  if (a.padding?.flat().some((p) => p)) parts.push(t("set.padding", { n: [...new Set(a.padding.flat())].join("/") }));
  if (a.dilation && (a.dilation[0] !== 1 || a.dilation[1] !== 1)) parts.push(t("set.dilation", { n: pairText(a.dilation) }));
  if (a.ceil_mode) parts.push("ceil_mode");
  if (a.scale_factor) parts.push(`× ${pairText(a.scale_factor)}`);
  if (a.num_groups) parts.push(t("set.groups", { n: a.num_groups }));
  if (a.groups > 1) parts.push(t("set.groups", { n: a.groups }));
  if (a.negative_slope !== undefined) parts.push(`a = ${a.negative_slope}`);
  if (a.factor !== undefined) parts.push(`× ${a.factor}`);
  if (a.eps !== undefined) parts.push(`ε = ${a.eps}`);
  if (a.p !== undefined) parts.push(`p = ${a.p}`);
  const count = node.parameters.reduce((n, name) => n + node.tensors[name].data.length, 0);
  if (count) parts.push(t("set.parameters", { n: count.toLocaleString("en") }));
  // Where a branch begins or branches meet, the row above is not (all of) the input.
  if (node.inputs.length > 1 || (node.inputs.length && node.inputs[0] !== node.id - 1)) {
    parts.push(t("set.reads", { names: node.inputs.map((k) => nodeTitle(nodes[k])).join(" + ") }));
  }
  return parts.join(" · ");
}

function renderRows() {
  return h("ol", { class: "rows", id: "rows", "aria-label": t("rows.label") }, nodes.map((node) => renderRow(node)));
}

const mainTensor = (node) => (app.direction === "backward" && node.tensors.dy ? "dy" : "y");

function renderRow(node) {
  const open = opened.has(node.id);
  return h("li", { class: `row ${node.name.includes(".") ? "branch" : ""}`, id: `row-${node.id}`, "data-kind": node.kind },
    h("div", { class: "rail", "aria-hidden": "true" }, h("span", { class: "arrow" }, app.direction === "forward" ? "↓" : "↑")),
    h("div", { class: "card" },
      h("div", { class: "card-head" },
        h("h3", {}, node.kind === "Input" || node === lossNode ? nodeTitle(node)
          : [h("span", { class: "place" }, node.name), node.kind]),
        h("span", { class: "shape" }, shapeText(node.shape)),
        h("span", { class: "settings" }, settingsText(node)),
        node === lossNode
          ? h("a", { class: "quiet", href: "#/loss" }, t("row.losscard"))
          : h("button", {
            class: "quiet more", "aria-expanded": String(open), "aria-controls": `details-${node.id}`,
            "aria-label": `${open ? t("row.less") : t("row.more")}: ${nodeTitle(node)}`, onclick: () => {
              toggleRow(node);
              byId(`row-${node.id}`).querySelector(".more").focus({ preventScroll: true });
            },
          }, open ? t("row.less") : t("row.more")),
      ),
      node === lossNode ? lossLine() : [mapFigure(node, mainTensor(node)), open ? renderDetails(node) : null],
    ),
  );
}

function refreshRows(list) {
  for (const node of list) byId(`row-${node.id}`)?.replaceWith(renderRow(node));
  forgetMaps();
}

// One row is open at a time, which keeps the page small.
function openRow(node, open) {
  const others = [...opened].filter((id) => id !== node.id);
  opened.clear();
  if (open) opened.add(node.id);
  refreshRows([...others.map((id) => nodes[id]), node]);
}

// The row that was clicked stays where it is on screen.
function toggleRow(node, open = !opened.has(node.id)) {
  const top = byId(`row-${node.id}`).getBoundingClientRect().top;
  openRow(node, open);
  scrollBy({ top: byId(`row-${node.id}`).getBoundingClientRect().top - top, behavior: "instant" });
}

function lossLine() {
  const line = h("p", { class: "lossline" }, "L = ", numberButton(cell(lossNode, "y", 0)));
  const bars = h("div", { class: "mapline" }, h("span", { class: "tag" }, tensorTitle(lossNode, "p")), mapHolder(lossNode, "p", { cellSize: 26 }));
  return [line, bars];
}

// The width that is left for maps in a card: without the panel, the rail, the tag and the margins (see page.css).
// Measured once for a width of the window: it costs a layout.
const measured = { at: null, room: 0 };

function mapRoom() {
  const content = byId("content");
  if (!content || measured.at === innerWidth) return content ? measured.room : 760;
  const beside = innerWidth > 1080 ? 650 : innerWidth > 640 ? 140 : 40;
  Object.assign(measured, { at: innerWidth, room: Math.max(200, Math.min(760, content.clientWidth - beside)) });
  return measured.room;
}

// A map in a box that scrolls if it must.
function mapHolder(node, tensor, options = {}) {
  const map = new ValueMap(node, tensor, { width: mapRoom(), ...options });
  paintWhenSeen(map);
  return h("div", { class: "mapbox" }, map.canvas);
}

function mapFigure(node, tensor, spread = false) {
  const s = statisticsOf(tensorOf(node, tensor).data);
  return h("div", { class: "mapline" },
    h("span", { class: "tag" }, tensorTitle(node, tensor)),
    mapHolder(node, tensor),
    h("div", { class: "stats" },
      t("stat.min"), " ", numberButton(cell(node, tensor, s.minAt)), " ",
      t("stat.max"), " ", numberButton(cell(node, tensor, s.maxAt)), " ",
      h("span", { class: "rest" }, `${t("stat.mean")} ${number(s.mean)} · ‖·‖ ${number(s.norm)} · ${t("stat.zeros")} ${number(100 * s.zeros, 3)} %`),
      spread ? histogram(tensorOf(node, tensor).data, tensorTitle(node, tensor)) : null),
  );
}

// A number that opens its own explanation.
function numberButton(c, digits = 4) {
  const value = valueAt(c), text = numberText(c, value, digits);
  return h("a", {
    class: `num ${neverNegative(c) ? "" : signClass(value)}`, href: `#/network/${cellKey(c)}`, "data-value": String(value),
    "aria-label": `${cellTitle(c)}, ${nodeTitle(c.node)} = ${text}`,
  }, text);
}

function renderDetails(node) {
  const order = ["y", "mask", "dy", ...node.parameters.flatMap((name) => [name, "d" + name]), ...node.buffers];
  const names = order.filter((name) => name !== mainTensor(node) && node.tensors[name]);
  return h("div", { class: "details", id: `details-${node.id}` },
    h("div", { class: "mapline" }, h("span", { class: "tag" }, t("histogram.tag")), h("div", {}, histogram(node.tensors[mainTensor(node)].data, tensorTitle(node, mainTensor(node))))),
    names.map((name) => mapFigure(node, name, true)),
    manifest.derivations[node.kind] ? derivationLater(node) : null,
  );
}

// Shows the tensor of a cell: turns the switch or opens the row if need be.
function reveal(c) {
  fillDerivations(); // those that still wait would move what is shown
  const gradient = c.tensor === "dy";
  if (c.node !== lossNode && (gradient || c.tensor === "y") && mainTensor(c.node) !== c.tensor && !opened.has(c.node.id)) {
    setDirection(gradient ? "backward" : "forward", c.node);
  } else if (!/^(y|dy|dx\d|p|target)$/.test(c.tensor) && !opened.has(c.node.id)) {
    openRow(c.node, true);
  }
  showOnScreen(c);
}

// Scrolls so that the cell itself is seen, on narrow screens above the panel that covers the lower part.
function showOnScreen(c) {
  const map = (maps.get(`${c.node.id}/${c.tensor}`) ?? []).find((one) => one.canvas.isConnected) ?? null;
  const target = map?.canvas ?? byId(`row-${c.node.id}`);
  if (!target) return;
  const [x, y] = map ? map.place(c.index) : [0, 0], holder = target.parentElement;
  if (map && holder.scrollHeight > holder.clientHeight) holder.scrollTop = Math.max(0, y - holder.clientHeight / 2);
  if (map && holder.scrollWidth > holder.clientWidth) holder.scrollLeft = Math.max(0, x - holder.clientWidth / 2);
  const box = target.getBoundingClientRect(), at = box.top + y, covered = innerWidth <= 1080, bottom = covered ? innerHeight * 0.36 : innerHeight - 60;
  if (at < 12 || at + (map?.size ?? 0) > bottom) scrollBy({ top: at - (covered ? bottom * 0.55 : innerHeight * 0.35), behavior: "instant" });
}

function setDirection(direction, wanted = null) {
  if (app.direction === direction) return;
  app.direction = direction;
  for (const side of ["forward", "backward"]) byId(side)?.setAttribute("aria-pressed", String(side === direction));
  document.documentElement.dataset.direction = direction;
  // What is on screen turns at once, the rest as soon as the page is idle.
  const onScreen = (node) => {
    const box = byId(`row-${node.id}`)?.getBoundingClientRect();
    return node === wanted || (box && box.bottom > -200 && box.top < innerHeight + 200);
  };
  const near = nodes.filter(onScreen), far = nodes.filter((node) => !near.includes(node));
  refreshRows(near);
  setTimeout(() => refreshRows(far));
}
