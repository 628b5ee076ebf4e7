// The drawing pad: pointer, touch and keyboard; and the samples to choose from. Everything on the page follows.

const pad = { cursor: 0, ink: 1, down: false, last: null, pending: false };

function drawingPad() {
  const [, H, W] = nodes[0].shape, size = Math.max(2, Math.floor(Math.min(308, innerWidth - 90) / Math.max(H, W)));
  const canvas = h("canvas", {
    id: "pad", class: "pad", width: W * size, height: H * size, tabindex: 0, role: "application", "aria-label": t("draw.label"), "aria-describedby": "pad-keys",
    onpointerdown: (event) => {
      pad.down = true;
      pad.last = null;
      canvas.setPointerCapture(event.pointerId);
      strokeTo(event);
    },
    onpointermove: (event) => pad.down && strokeTo(event),
    onpointerup: () => ((pad.down = false), setTimeout(commitDrawing)), onpointercancel: () => (pad.down = false),
    onkeydown: padKey, onfocus: paintPad, onblur: paintPad,
  });
  pad.size = size;
  pad.canvas = canvas;
  paintPad();
  const ink = (value, key) => h("button", { class: "quiet", id: key.replace(".", "-"), "aria-pressed": String(pad.ink === value), onclick: () => {
    pad.ink = value;
    for (const [k, v] of [["draw-ink", 1], ["draw-rub", 0]]) byId(k).setAttribute("aria-pressed", String(pad.ink === v));
  } }, t(key));
  return h("div", { class: "draw" }, h("h3", {}, t("draw.title")), canvas, h("p", { class: "fine", id: "pad-keys" }, t("draw.keys")),
    h("div", { class: "tools" }, ink(1, "draw.ink"), ink(0, "draw.rub"),
      h("button", { class: "quiet", id: "draw-clear", onclick: () => setLive({ image: plainImage(), known: false }, "draw-clear") }, t("draw.clear")),
      h("button", { class: "quiet", id: "draw-center", onclick: () => setLive({ image: centredImage() }, "draw-center") }, t("draw.center")),
      live.image ? h("button", { class: "quiet", id: "draw-stored", onclick: () => setLive({ image: null, label: about.label, known: about.known ?? true }, "pad") }, t("draw.stored")) : null));
}

const plainImage = () => Float64Array.from(nodes[0].tensors.y.data, (_, k) => normalized(0, planeOf(k)));
const planeOf = (index) => Math.floor(index / sizeOf(nodes[0].shape.slice(1)));

function paintPad() {
  const { canvas, size } = pad, pen = canvas.getContext("2d"), [, , W] = nodes[0].shape;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(imageCanvas(), 0, 0, canvas.width, canvas.height);
  if (document.activeElement !== canvas) return;
  pen.strokeStyle = "#ff9e54";
  pen.lineWidth = 2;
  pen.strokeRect((pad.cursor % W) * size, Math.floor(pad.cursor / W) * size, size, size);
}

// Sets the ink at a point, softer around it, as MNIST's strokes are.
function inkAt(row, column, spread = 1) {
  const [C, H, W] = nodes[0].shape, image = (live.image ??= Float64Array.from(nodes[0].tensors.y.data));
  for (let i = Math.floor(row - 1); i <= row + 2; i++) {
    for (let j = Math.floor(column - 1); j <= column + 2; j++) {
      if (i < 0 || i >= H || j < 0 || j >= W) continue;
      const strength = Math.max(0, Math.min(1, 1.5 - Math.hypot(i - row, j - column) / spread));
      if (!strength) continue;
      for (let c = 0; c < C; c++) {
        const at = (c * H + i) * W + j, before = brightness(image[at], c);
        image[at] = normalized(pad.ink ? Math.max(before, strength) : Math.min(before, 1 - strength), c);
      }
    }
  }
}

function strokeTo(event) {
  const box = pad.canvas.getBoundingClientRect(), scale = pad.canvas.width / box.width / pad.size;
  const to = [(event.clientY - box.top) * scale - 0.5, (event.clientX - box.left) * scale - 0.5], from = pad.last ?? to;
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
  if (!live.image) live.image = Float64Array.from(nodes[0].tensors.y.data);
  for (let k = 1; k <= steps; k++) inkAt(from[0] + ((to[0] - from[0]) * k) / steps, from[1] + ((to[1] - from[1]) * k) / steps);
  pad.last = to;
  nodes[0].tensors.y = { shape: nodes[0].tensors.y.shape, data: live.image };
  paintPad();
  commitDrawing();
}

// At most once a frame: the network follows the pen.
function commitDrawing() {
  if (pad.pending) return;
  pad.pending = true;
  requestAnimationFrame(() => {
    pad.pending = false;
    if (live.image) setLive({ image: Float64Array.from(live.image) });
  });
}

function padKey(event) {
  const [, H, W] = nodes[0].shape, row = Math.floor(pad.cursor / W), column = pad.cursor % W;
  const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (step) {
    const to = [Math.max(0, Math.min(H - 1, row + step[0])), Math.max(0, Math.min(W - 1, column + step[1]))];
    pad.cursor = to[0] * W + to[1];
    if (event.shiftKey) inkAt(...to, 0.9), commitDrawing();
    announce(`${to.join(", ")}: ${number(brightness(nodes[0].tensors.y.data[pad.cursor]), 2)}`);
    paintPad();
  } else if (event.key === " " || event.key === "Enter") {
    inkAt(row, column, 0.9);
    commitDrawing();
  } else return;
  event.preventDefault();
}

// The drawing moved so that its centre of mass is in the middle, as MNIST's digits are.
function centredImage() {
  const [C, H, W] = nodes[0].shape, x = nodes[0].tensors.y.data, image = plainImage();
  let mass = 0, rows = 0, columns = 0;
  for (let k = 0; k < H * W; k++) {
    const v = Math.max(0, brightness(x[k]));
    mass += v;
    rows += v * Math.floor(k / W);
    columns += v * (k % W);
  }
  if (!mass) return image;
  const down = Math.round((H - 1) / 2 - rows / mass), right = Math.round((W - 1) / 2 - columns / mass);
  for (let c = 0; c < C; c++) for (let i = 0; i < H; i++) for (let j = 0; j < W; j++) {
    if (i - down >= 0 && i - down < H && j - right >= 0 && j - right < W) image[(c * H + i) * W + j] = x[(c * H + i - down) * W + j - right];
  }
  return image;
}

function sampleStrip() {
  if (!samples) return null;
  const [C, H, W] = nodes[0].shape;
  return h("div", { class: "samples" }, h("h3", {}, t("samples.title")), h("p", { class: "fine" }, t("samples.text", { n: samples.labels.length - samples.held, held: samples.held })),
    h("ol", {}, samples.images.map((image, n) => {
      const canvas = h("canvas", { width: W, height: H }), pen = canvas.getContext("2d"), picture = pen.createImageData(W, H);
      for (let k = 0; k < H * W; k++) picture.data.set([...[0, 1, 2].map((c) => 255 * brightness(image[(C === 3 ? c : 0) * H * W + k], C === 3 ? c : 0)), 255], 4 * k);
      pen.putImageData(picture, 0, 0);
      return h("li", {}, h("button", { class: n >= samples.labels.length - samples.held ? "held" : "", id: `sample-${n}`, "aria-label": t("samples.one", { n: n + 1, name: className(samples.labels[n]) }), title: className(samples.labels[n]),
        onclick: () => setLive({ image: Float64Array.from(image), label: samples.labels[n], known: true }, `sample-${n}`) }, canvas));
    })));
}
