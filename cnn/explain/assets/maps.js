// Maps: a tensor drawn on a canvas, one tile a channel. Colour says sign and size; negative cells are hatched as well.
// A map is one tab stop; arrow keys move inside it, Page Up and Page Down change the tile, Enter opens the cell.

const palettes = {
  light: { zero: [250, 249, 246], pos: [196, 84, 18], neg: [28, 94, 168], grid: "#d9d5ca", hatch: "rgba(255,255,255,.75)", mark: "#111820", related: "#0a8f6a" },
  dark: { zero: [24, 28, 35], pos: [255, 158, 84], neg: [96, 172, 255], grid: "#39414d", hatch: "rgba(10,13,18,.7)", mark: "#ffffff", related: "#3fe0b0" },
};

const maps = new Map(); // "node/tensor" -> the maps on screen that show it

function colourOf(value, scale, palette) {
  const share = scale > 0 ? Math.min(1, Math.abs(value) / scale) ** 0.75 : 0;
  const end = value < 0 ? palette.neg : palette.pos;
  return palette.zero.map((z, k) => Math.round(z + (end[k] - z) * share));
}

// How a shape is cut into tiles: [tiles, rows, columns] of one tile.
function tileShape(shape) {
  if (shape.length >= 3) return [sizeOf(shape.slice(0, -2)), ...shape.slice(-2)];
  if (shape.length === 2) return [1, ...shape];
  return [1, 1, shape[0] ?? 1];
}

const painted = new WeakMap(); // values -> pictures by theme and size

// One pixel a cell, tiles below one another.
function cellColours(values, columns, rows, scale, palette) {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  canvas.width = columns;
  canvas.height = rows;
  const image = pen.createImageData(columns, rows), pixels = image.data;
  for (let k = 0; k < values.length; k++) {
    const value = values[k], end = value < 0 ? palette.neg : palette.pos;
    const share = scale > 0 ? Math.min(1, Math.abs(value) / scale) ** 0.75 : 0;
    for (let c = 0; c < 3; c++) pixels[4 * k + c] = palette.zero[c] + (end[c] - palette.zero[c]) * share;
    pixels[4 * k + 3] = 255;
  }
  pen.putImageData(image, 0, 0);
  return canvas;
}

class ValueMap {
  // options: cellSize (CSS pixels, chosen by default), width (room for tiles)
  constructor(node, tensor, options = {}) {
    Object.assign(this, { node, tensor, options });
    this.values = tensorOf(node, tensor).data;
    this.shape = tensorOf(node, tensor).shape;
    this.cursor = 0;
    this.canvas = h("canvas", {
      class: "map", tabindex: 0, role: "application", "aria-roledescription": t("map.role"),
      onclick: (e) => this.click(e), onkeydown: (e) => this.key(e), onpointermove: (e) => this.hover(e),
      onpointerleave: () => hideTip(), onfocus: () => this.focus(true), onblur: () => this.focus(false),
    });
    this.label();
    this.layout();
    const key = `${node.id}/${tensor}`;
    maps.set(key, [...(maps.get(key) ?? []), this]);
  }

  label() {
    const s = statisticsOf(this.values);
    this.canvas.setAttribute("aria-label", t("map.label", {
      what: `${tensorTitle(this.node, this.tensor)}, ${nodeTitle(this.node)}`, shape: shapeText(this.shape),
      min: number(s.min), max: number(s.max),
    }));
  }

  layout() {
    const [tiles, rows, columns] = tileShape(this.shape);
    const limit = this.options.width ?? 640, wrap = rows === 1 && tiles === 1;
    this.tiles = tiles;
    this.columns = wrap ? Math.min(columns, Math.max(8, Math.floor(limit / 14))) : columns;
    this.rows = wrap ? Math.ceil(columns / this.columns) : rows;
    const wanted = { 1: 14, 2: 14 }[Math.min(rows, columns)] ?? (columns > 100 ? 3 : columns <= 7 ? 12 : Math.max(3, Math.min(9, Math.floor((tiles <= 3 ? 200 : 112) / columns))));
    // Fingers need larger cells, where the map still fits.
    const finger = matchMedia("(pointer: coarse)").matches ? Math.min(16, Math.floor(limit / columns)) : 0;
    this.size = this.options.cellSize ?? (wrap && columns <= 16 ? 26 : Math.max(wanted, finger));
    this.arrange(limit);
    // Thousands of kernels: smaller cells, so that the canvas stays within what browsers allow.
    while (this.width * this.height > 6e6 && this.size > 2) {
      this.size -= 1;
      this.arrange(limit);
    }
    const ratio = Math.min(2, window.devicePixelRatio || 1);
    this.ratio = this.width * this.height * ratio * ratio > 4e6 ? 1 : ratio;
    this.canvas.width = Math.max(1, Math.round(this.width * this.ratio));
    this.canvas.height = Math.max(1, Math.round(this.height * this.ratio));
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
  }

  arrange(limit) {
    this.gap = this.tiles > 1 ? Math.max(3, Math.min(10, this.size)) : 0;
    const tileWidth = this.columns * this.size + this.gap;
    this.perRow = Math.max(1, Math.min(this.tiles, Math.floor((limit + this.gap) / tileWidth)));
    this.width = this.perRow * tileWidth - this.gap;
    this.height = Math.ceil(this.tiles / this.perRow) * (this.rows * this.size + this.gap) - this.gap;
  }

  // Top left corner of a cell, in CSS pixels.
  place(index) {
    const plane = this.shape.length >= 3 || this.tiles > 1 ? sizeOf(this.shape.slice(-2)) : this.values.length;
    const tile = Math.floor(index / plane), inside = index % plane;
    const row = Math.floor(inside / this.columns), column = inside % this.columns;
    const tileX = tile % this.perRow, tileY = Math.floor(tile / this.perRow);
    return [
      tileX * (this.columns * this.size + this.gap) + column * this.size,
      tileY * (this.rows * this.size + this.gap) + row * this.size,
    ];
  }

  // The cell under a point, or -1 between tiles.
  at(x, y) {
    const tileX = Math.floor(x / (this.columns * this.size + this.gap)), tileY = Math.floor(y / (this.rows * this.size + this.gap));
    const column = Math.floor((x - tileX * (this.columns * this.size + this.gap)) / this.size);
    const row = Math.floor((y - tileY * (this.rows * this.size + this.gap)) / this.size);
    const tile = tileY * this.perRow + tileX;
    if (column < 0 || column >= this.columns || row < 0 || row >= this.rows || tileX >= this.perRow || tile >= this.tiles) return -1;
    const index = (tile * this.rows + row) * this.columns + column;
    return index < this.values.length ? index : -1;
  }

  // The picture without marks is kept: marking a cell costs one copy, and so does showing the map again.
  paint() {
    const pictures = painted.get(this.values) ?? new Map();
    const key = [app.theme, this.width, this.height, this.size, this.ratio].join();
    if (!pictures.has(key)) pictures.set(key, this.picture());
    painted.set(this.values, pictures);
    this.base = pictures.get(key);
    this.draw();
  }

  picture() {
    const palette = palettes[app.theme], scale = statisticsOf(this.values).size;
    const cells = cellColours(this.values, this.columns, this.rows * this.tiles, scale, palette);
    const base = document.createElement("canvas"), pen = base.getContext("2d");
    base.width = this.canvas.width;
    base.height = this.canvas.height;
    pen.scale(this.ratio, this.ratio);
    pen.imageSmoothingEnabled = false;
    const wide = this.columns * this.size, high = this.rows * this.size, plane = this.columns * this.rows;
    pen.fillStyle = palette.grid;
    for (let tile = 0; tile < this.tiles; tile++) {
      const [x, y] = this.place(Math.min(tile * plane, this.values.length - 1));
      pen.drawImage(cells, 0, tile * this.rows, this.columns, this.rows, x, y, wide, high);
      if (this.size < 6) continue;
      for (let column = 1; column < this.columns; column++) pen.fillRect(x + column * this.size - 0.5, y, 0.5, high);
      for (let row = 1; row < this.rows; row++) pen.fillRect(x, y + row * this.size - 0.5, wide, 0.5);
    }
    this.hatch(pen, palette, scale);
    pen.strokeStyle = palette.grid;
    pen.lineWidth = 1;
    for (let tile = 0; tile < this.tiles; tile++) {
      const [x, y] = this.place(Math.min(tile * plane, this.values.length - 1));
      pen.strokeRect(x + 0.5, y + 0.5, wide - 1, high - 1);
    }
    return base;
  }

  // One diagonal stroke in each negative cell that is large enough to show it.
  hatch(pen, palette, scale) {
    if (this.size < 4) return;
    pen.strokeStyle = palette.hatch;
    pen.lineWidth = this.size >= 9 ? 1.2 : 0.8;
    pen.beginPath();
    for (let k = 0; k < this.values.length; k++) {
      if (!(this.values[k] < -0.02 * scale)) continue;
      const [x, y] = this.place(k), inset = this.size * 0.18;
      pen.moveTo(x + inset, y + this.size - inset);
      pen.lineTo(x + this.size - inset, y + inset);
    }
    pen.stroke();
  }

  draw() {
    if (!this.base) return;
    const pen = this.canvas.getContext("2d"), palette = palettes[app.theme];
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.drawImage(this.base, 0, 0);
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const key = `${this.node.id}/${this.tensor}`;
    this.drawRelated(pen, marks.related.get(key) ?? new Set(), palette.related);
    if (marks.current?.has(key)) {
      const [x, y] = this.place(marks.current.get(key));
      pen.strokeStyle = palette.mark;
      pen.lineWidth = 2;
      pen.strokeRect(x + 1, y + 1, this.size - 2, this.size - 2);
    }
    if (marks.selected?.key === key) {
      const [x, y] = this.place(marks.selected.index);
      pen.strokeStyle = palette.mark;
      pen.lineWidth = 2.5;
      pen.strokeRect(x - 0.5, y - 0.5, this.size, this.size);
    }
    if (this.focused) {
      const [x, y] = this.place(this.cursor);
      pen.setLineDash([3, 2]);
      pen.strokeStyle = palette.mark;
      pen.lineWidth = 2;
      pen.strokeRect(x - 2, y - 2, this.size + 3, this.size + 3);
      pen.setLineDash([]);
    }
  }

  // The border around cells that belong together, not around each of them.
  drawRelated(pen, related, colour) {
    const places = new Map([...related].map((index) => [this.place(index).join(), this.place(index)]));
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.beginPath();
    for (const [x, y] of places.values()) {
      const n = this.size, free = (dx, dy) => !places.has(`${x + dx * n},${y + dy * n}`);
      if (free(0, -1)) (pen.moveTo(x, y), pen.lineTo(x + n, y));
      if (free(0, 1)) (pen.moveTo(x, y + n), pen.lineTo(x + n, y + n));
      if (free(-1, 0)) (pen.moveTo(x, y), pen.lineTo(x, y + n));
      if (free(1, 0)) (pen.moveTo(x + n, y), pen.lineTo(x + n, y + n));
    }
    pen.stroke();
  }

  pick(index, byKeyboard = false) {
    this.cursor = index;
    openCell(cell(this.node, this.tensor, index), byKeyboard);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    return this.at(((event.clientX - box.left) * this.width) / box.width, ((event.clientY - box.top) * this.height) / box.height);
  }

  click(event) {
    const index = this.point(event);
    if (index >= 0) this.pick(index);
  }

  hover(event) {
    const index = this.point(event);
    if (index < 0) hideTip();
    else showTip(event, this.describe(index));
  }

  describe(index) {
    return `${cellTitle(cell(this.node, this.tensor, index))} = ${signed(this.values[index], 5)}`;
  }

  key(event) {
    const plane = this.values.length / this.tiles, steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns,
      PageDown: plane, PageUp: -plane, Home: -this.cursor, End: this.values.length - 1 - this.cursor,
    };
    if (event.key === "Enter" || event.key === " ") this.pick(this.cursor, true);
    else if (event.key in steps) {
      const next = this.cursor + steps[event.key];
      if (next >= 0 && next < this.values.length) this.cursor = next;
      announce(this.describe(this.cursor));
      this.draw();
    } else return;
    event.preventDefault();
  }

  focus(on) {
    this.focused = on;
    if (on) {
      if (marks.selected?.key === `${this.node.id}/${this.tensor}`) this.cursor = marks.selected.index;
      announce(this.describe(this.cursor));
    }
    this.draw();
  }
}

// The cell that is open, and the cells its terms come from.
const marks = { selected: null, related: new Map() };

function markCells(c, made) {
  const before = new Set([marks.selected?.key, ...marks.related.keys()]);
  marks.selected = c ? { key: `${c.node.id}/${c.tensor}`, index: c.index } : null;
  marks.related = new Map();
  marks.current = null;
  for (const f of [...(made?.terms ?? []).flatMap((term) => term.factors), ...(made?.steps ?? [])]) {
    if (!f.cell) continue;
    const key = `${f.cell.node.id}/${f.cell.tensor}`;
    if (!marks.related.has(key)) marks.related.set(key, new Set());
    marks.related.get(key).add(f.cell.index);
  }
  for (const key of new Set([...before, marks.selected?.key, ...marks.related.keys()]))
    for (const map of maps.get(key) ?? []) map.draw();
}

// Maps are painted when they come into view.
const waiting = new Map(); // canvas -> map
const watcher = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting, boundingClientRect: box } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    // What is only near the screen waits until the reader's action has been shown.
    if (box.bottom > 0 && box.top < innerHeight) paintWaiting(target);
    else setTimeout(() => paintWaiting(target));
  }
}, { rootMargin: "400px" });

function paintWaiting(canvas) {
  waiting.get(canvas)?.paint();
  waiting.delete(canvas);
}

function paintWhenSeen(map) {
  waiting.set(map.canvas, map);
  watcher.observe(map.canvas);
}

// Paper is white, and shows all maps, wherever the reader has scrolled.
let themeBeforePrint = null;

addEventListener("beforeprint", () => {
  themeBeforePrint = app.theme;
  if (app.theme !== "light") repaintPage("light");
  fillDerivations();
  for (const map of waiting.values()) map.paint();
});

addEventListener("afterprint", () => {
  if (themeBeforePrint && themeBeforePrint !== app.theme) repaintPage(themeBeforePrint);
  themeBeforePrint = null;
});

// Forgets maps whose canvas has left the page.
function forgetMaps() {
  for (const canvas of waiting.keys()) if (!canvas.isConnected) waiting.delete(canvas);
  for (const [key, list] of maps) {
    const kept = list.filter((map) => map.canvas.isConnected);
    if (kept.length) maps.set(key, kept);
    else maps.delete(key);
  }
}

const statistics = new WeakMap();

function statisticsOf(values) {
  if (statistics.has(values)) return statistics.get(values);
  let min = Infinity, max = -Infinity, sum = 0, squares = 0, zeros = 0, minAt = 0, maxAt = 0;
  for (let k = 0; k < values.length; k++) {
    const v = values[k];
    if (v < min) (min = v), (minAt = k);
    if (v > max) (max = v), (maxAt = k);
    sum += v;
    squares += v * v;
    if (v === 0) zeros++;
  }
  const n = values.length, s = {
    min, max, minAt, maxAt, mean: sum / n, norm: Math.sqrt(squares), zeros: zeros / n, size: Math.max(Math.abs(min), Math.abs(max)),
  };
  statistics.set(values, s);
  return s;
}

function showTip(event, text) {
  const tip = byId("tip");
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(event.clientY + 16, window.innerHeight - tip.offsetHeight - 8)}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

function announce(text) {
  byId("live").textContent = text;
}
