// One sum, watched: the equation with this cell's indices put in, windows and kernels as pictures, and the plain loops of
// cnn/reference/loops.py with the current line lit, term by term.

// --- the equation with indices put in -------------------------------------------------------------------------------

// "8 + 2u" from 8 and 2; "u − 2"; "u".
function affine(start, step, letter) {
  const times = step === 1 ? letter : `${step}${letter}`;
  return start === 0 ? times : start > 0 ? `${start} + ${times}` : `${times} − ${-start}`;
}

const turned = (start, step, letter, stride) => {
  const inside = `${start} − ${step === 1 ? "" : step}${letter}`;
  return stride === 1 ? inside : `(${inside})/${stride}`;
};

const indexed = {
  Conv2d: {
    forward({ attrs, stored }, [k, i, j]) {
      const [[sh, sw], [dh, dw]] = [attrs.stride, attrs.dilation], top = attrs.padding[0][0], left = attrs.padding[1][0];
      return `Σ x[c, ${affine(i * sh - top, dh, "u")}, ${affine(j * sw - left, dw, "v")}] · w[${k}, c, u, v]${stored.bias ? ` + b[${k}]` : ""}`;
    },
    dx({ attrs }, [c, a, b]) {
      const [[sh, sw], [dh, dw]] = [attrs.stride, attrs.dilation], top = attrs.padding[0][0], left = attrs.padding[1][0];
      return `Σ dy[k, ${turned(a + top, dh, "u", sh)}, ${turned(b + left, dw, "v", sw)}] · w[k, ${c}, u, v]`;
    },
    dweight({ attrs }, [k, c, u, v]) {
      const [[sh, sw], [dh, dw]] = [attrs.stride, attrs.dilation], top = attrs.padding[0][0], left = attrs.padding[1][0];
      return `Σ dy[${k}, i, j] · x[${c}, ${affine(u * dh - top, sh, "i")}, ${affine(v * dw - left, sw, "j")}]`;
    },
    dbias: (node, [k]) => `Σ dy[${k}, i, j]`,
  },
  Linear: {
    forward: ({ stored }, [o]) => `Σ x[f] · w[${o}, f]${stored.bias ? ` + b[${o}]` : ""}`,
    dx: (node, [f]) => `Σ dy[o] · w[o, ${f}]`,
    dweight: (node, [o, f]) => `dy[${o}] · x[${f}]`,
    dbias: (node, [o]) => `dy[${o}]`,
  },
  MaxPool2d: {
    forward({ attrs }, [c, i, j]) {
      const { kernel_size: [kh, kw], stride: [sh, sw], padding: [[top], [left]], dilation: [dh, dw] } = attrs;
      if (dh > 1 || dw > 1) return `max x[${c}, ${affine(i * sh - top, dh, "u")}, ${affine(j * sw - left, dw, "v")}]`;
      return `max x[${c}, ${i * sh - top}…${i * sh - top + kh - 1}, ${j * sw - left}…${j * sw - left + kw - 1}]`;
    },
    dx: (node, [c, a, b]) => `Σ dy[${c}, i, j] · [x[${c}, ${a}, ${b}] = max]`,
  },
  ReLU: { forward: (node, at) => `max(0, x[${at.join(", ")}])`, dx: (node, at) => `dy[${at.join(", ")}] · [x[${at.join(", ")}] > 0]` },
  BatchNorm2d: {
    forward: (node, at) => `γ[${at[0]}] · (x[${at.join(", ")}] − μ[${at[0]}]) / √(σ²[${at[0]}] + ε) + β[${at[0]}]`,
    dweight: (node, [c]) => `Σ dy[${c}, i, j] · x̂[${c}, i, j]`, dbias: (node, [c]) => `Σ dy[${c}, i, j]`,
  },
  Loss: { softmax: (node, [k]) => `exp(z[${k}] − max z) / Σ exp(z[j] − max z)`, dx: (node, [k]) => `p[${k}] − y[${k}]`,
    forward: () => (live.smoothing ? "−Σ y[k] · ln p[k]" : `−ln p[${live.label}]`) },
};

function indexedLine(c, made) {
  const write = made.equation && indexed[made.owner.kind]?.[made.equation];
  if (!write) return null;
  const name = made.equation === "dx" ? symbolOf("∂L/∂x", positionOf(c)) : cellTitle(c);
  return h("p", { class: "indexed" }, h("span", { class: "unseen" }, t("indexed.label")), `${made.owner === lossNode && made.equation === "dx" ? symbolOf("∂L/∂z", positionOf(c)) : name} = ${write(made.owner, positionOf(c))}`);
}

// --- windows and kernels --------------------------------------------------------------------------------------------

// How the two factors of a convolution's terms lie: groups of pictures, and the place of a term in its picture.
const layouts = {
  forward: { weight: (w, x) => ({ group: w[1], row: w[2], column: w[3] }), rows: (node) => node.stored.weight.shape.slice(2), names: (g, x) => [`x[${x[0]}]`, "window.kernel"], other: "y" },
  dx: {
    weight: (w, dy, [kh, kw]) => ({ group: w[0], row: kh - 1 - w[2], column: kw - 1 - w[3] }), rows: (node) => node.stored.weight.shape.slice(2),
    names: (g) => [`dy[${g}]`, "window.turned"], other: "dy",
  },
  dweight: { dy: (dy) => ({ group: 0, row: dy[1], column: dy[2] }), rows: (node) => node.shape.slice(1), names: (g, x, dy) => [`dy[${dy[0]}]`, `x[${x[0]}]`], other: "y" },
};

// Window ⊙ kernel = products, drawn small: forward the input channels that weigh most, backward the filters, for a weight
// the whole map of dy over the input. The current term is framed.
function windowPicture(c, made, current = null) {
  const node = made.owner, layout = layouts[made.equation];
  if (node.kind !== "Conv2d" || !layout || !made.terms.length) return null;
  const [rows, columns] = layout.rows(node), groups = new Map();
  for (const term of made.terms) {
    if (term.factors.length < 2) continue;
    const [a, b] = term.factors, [pa, pb] = [positionOf(a.cell), positionOf(b.cell)];
    const { group, row, column } = layout.weight ? layout.weight(pb, pa, [rows, columns]) : layout.dy(pa);
    if (!groups.has(group)) groups.set(group, { group, names: layout.names(group, layout.dy ? pb : pa, pa), cells: [], weight: 0, sum: 0 });
    const own = groups.get(group);
    own.cells.push({ at: row * columns + column, a, b, value: term.value, current: term === current });
    own.weight += Math.abs(term.value);
    own.sum += term.value;
  }
  const order = [...groups.values()].sort((a, b) => b.weight - a.weight), shown = order.slice(0, 3);
  const mine = order.find((one) => one.cells.some((k) => k.current));
  if (mine && !shown.includes(mine)) shown[shown.length - 1] = mine;
  const parts = ["a", "b", "value"], valueOf = (k, part) => (part === "value" ? k.value : k[part].value);
  const scales = parts.map((part) => Math.max(...shown.flatMap((one) => one.cells.map((k) => Math.abs(valueOf(k, part)))), 1e-300));
  const size = Math.max(3, Math.min(16, Math.floor(110 / Math.max(rows, columns))));
  const caption = (one, k) => (k === 2 ? `Σ ${signed(one.sum, 3)}` : one.names[k].startsWith("window") ? t(one.names[k]) : one.names[k]);
  return h("div", { class: "window", role: "img", "aria-label": t("window.label") }, shown.map((one) => h("div", { class: "window-row" },
    parts.flatMap((part, k) => {
      const picture = patch(one.cells.map((q) => [q.at, valueOf(q, part)]), rows, columns, size, scales[k]), marked = one.cells.find((q) => q.current);
      if (marked) markPatch(picture, marked.at % columns, Math.floor(marked.at / columns), size);
      return [h("figure", {}, picture, h("figcaption", {}, caption(one, k))), k < 2 ? h("span", { class: "times" }, k ? "=" : "⊙") : null];
    }))), order.length > shown.length ? h("p", { class: "fine" }, t("window.more", { n: order.length - shown.length })) : null);
}

function markPatch(canvas, column, row, size) {
  const pen = canvas.getContext("2d");
  pen.strokeStyle = palettes[app.theme].mark;
  pen.lineWidth = size < 6 ? 1.6 : 2.5;
  pen.strokeRect(column * size - 0.5, row * size - 0.5, size, size);
}

function patch(cells, rows, columns, size, scale) {
  const canvas = h("canvas", { class: "patch" }), palette = palettes[app.theme], pen = canvas.getContext("2d");
  canvas.width = 2 * columns * size;
  canvas.height = 2 * rows * size;
  canvas.style.width = `${columns * size}px`;
  canvas.style.height = `${rows * size}px`;
  pen.scale(2, 2);
  pen.fillStyle = palette.grid;
  pen.fillRect(0, 0, columns * size, rows * size);
  for (const [at, value] of cells) {
    const x = (at % columns) * size, y = Math.floor(at / columns) * size, [r, g, b] = colourOf(value, scale, palette);
    pen.fillStyle = `rgb(${r},${g},${b})`;
    pen.fillRect(x, y, size - 0.5, size - 0.5);
    if (value < 0 && size >= 5) {
      pen.strokeStyle = palette.hatch;
      pen.beginPath();
      pen.moveTo(x + 2, y + size - 2);
      pen.lineTo(x + size - 2, y + 2);
      pen.stroke();
    }
  }
  return canvas;
}

// --- the loops ------------------------------------------------------------------------------------------------------

// Where each loop variable is read off: from the cell (c) or from a factor's position.
const loopVariables = {
  Conv2d: { forward: "k c0,i c1,j c2,c weight1,u weight2,v weight3", dx: "c c0,a c1,b c2,k weight0,u weight2,v weight3,i dy1,j dy2", dweight: "k c0,c c1,u c2,v c3,i dy1,j dy2", dbias: "k c0,i dy1,j dy2" },
  Linear: { forward: "o c0,f weight1", dx: "f c0,o weight0", dweight: "o c0,f c1", dbias: "o c0" },
  MaxPool2d: { forward: "c c0,i c1,j c2,a y1,b y2", dx: "c c0,a c1,b c2,i dy1,j dy2" },
  AvgPool2d: { forward: "c c0,i c1,j c2,a y1,b y2", dx: "c c0,a c1,b c2,i dy1,j dy2" },
  GlobalAvgPool2d: { forward: "c c0,a y1,b y2", dx: "c c0,a c1,b c2" },
};

function variablesOf(c, made, term) {
  const places = { c: positionOf(c) };
  for (const f of term.factors) if (f.cell) places[f.cell.tensor] = positionOf(f.cell);
  return (loopVariables[made.owner.kind]?.[made.equation] ?? "").split(",").flatMap((one) => {
    const [name, from, axis] = one.match(/^(\w+) ([a-z]+)(\d)$/)?.slice(1) ?? [], value = places[from]?.[Number(axis)];
    return value === undefined ? [] : [`${name} = ${value}`];
  });
}

const player = { at: 0, timer: null };

// The pictures, the loops with the current line lit, and the subtotal; a slider and two buttons move through the terms.
function sumPlayer(c, made) {
  clearInterval(player.timer);
  player.timer = null;
  player.at = 0;
  const loops = made.equation ? manifest.loops?.[made.owner.kind]?.[made.equation] : null;
  if (made.own) return windowPicture(c, { ...made.own, owner: made.owner });
  if (!loops || made.terms.length < 2) return windowPicture(c, made);
  const holder = h("div", { class: "player", id: "player" }), { terms } = made, draw = () => {
    const term = terms[player.at], subtotal = made.form === "max" ? Math.max(...terms.slice(0, player.at + 1).map((one) => one.value)) : total(terms.slice(0, player.at + 1));
    const bias = term.factors.length === 1 && term.factors[0].cell?.tensor === "bias", lines = loops.source.split("\n");
    const lit = bias ? Math.max(0, lines.findIndex((line) => /= bias\[/.test(line))) : loops.line;
    byId("player-picture")?.replaceChildren(...[windowPicture(c, made, term)].filter(Boolean));
    byId("player-now")?.replaceChildren(h("span", { class: "num" }, `${player.at + 1} / ${terms.length}`), " ", h("span", { class: "variables" }, variablesOf(c, made, term).join(", ")),
      h("span", { class: "num product" }, `${term.factors.map((f) => signed(f.value, 3)).join(" × ")}${term.factors.length > 1 ? ` = ${signed(term.value, 3)}` : ""}`),
      h("span", { class: "num subtotal", id: "subtotal", "data-value": String(subtotal) }, `${made.form === "max" ? "max" : "Σ"} ${signed(subtotal, 5)}`));
    for (const [k, line] of [...(byId("player-code")?.children ?? [])].entries()) line.classList.toggle("lit", k === lit);
    const code = byId("player-code")?.parentElement, litLine = byId("player-code")?.children[lit];
    if (litLine) code.scrollTop = litLine.offsetTop - code.offsetTop - code.clientHeight / 2;
    markTerm(term);
  };
  const stop = () => {
    clearInterval(player.timer);
    player.timer = null;
    if (byId("player-play")) byId("player-play").textContent = t("player.play");
  };
  const go = (at) => {
    player.at = Math.max(0, Math.min(terms.length - 1, at));
    byId("player-at").value = player.at;
    draw();
  };
  const play = () => {
    if (player.timer) return stop();
    if (player.at === terms.length - 1) go(0);
    byId("player-play").textContent = t("player.pause");
    player.timer = setInterval(() => {
      if (!holder.isConnected || player.at === terms.length - 1) return stop();
      go(player.at + 1);
    }, Math.max(40, Math.min(600, 15000 / terms.length)));
  };
  const press = (id, label, act) => h("button", { class: "quiet", id, "aria-label": label, onclick: () => (stop(), act()) }, { "player-back": "←", "player-on": "→" }[id]);
  holder.append(
    h("div", { id: "player-picture" }, [windowPicture(c, made)].filter(Boolean)),
    h("div", { class: "player-controls" }, h("button", { class: "quiet", id: "player-play", onclick: play }, t("player.play")), press("player-back", t("player.back"), () => go(player.at - 1)), press("player-on", t("player.on"), () => go(player.at + 1)),
      h("input", { type: "range", id: "player-at", min: 0, max: terms.length - 1, value: 0, "aria-label": t("player.at"), oninput: (event) => (stop(), go(Number(event.target.value))) })),
    h("p", { class: "player-now", id: "player-now" }),
    h("details", { class: "loops", ontoggle: () => draw() }, h("summary", {}, t("player.loops"), h("span", { class: "fine" }, ` ${loops.name}`)),
      h("pre", { class: "loop-code", tabindex: 0 }, h("code", { id: "player-code" }, loops.source.split("\n").map((line) => h("span", { class: "line" }, line, "\n"))))));
  return holder;
}

// The cells of one term, framed in the maps on screen.
function markTerm(term) {
  const before = marks.current ?? new Map();
  marks.current = new Map(term.factors.filter((f) => f.cell).map((f) => [`${f.cell.node.id}/${f.cell.tensor}`, f.cell.index]));
  for (const key of new Set([...before.keys(), ...marks.current.keys()])) for (const map of maps.get(key) ?? []) map.draw();
}
