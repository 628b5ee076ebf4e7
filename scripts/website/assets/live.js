// The landing page's network: it follows the pen, and takes a training step when asked to.
// The engine above is that of the explain page; `network` holds nodes, weights and a few digits.

const nodes = network.nodes, lossNode = nodes[nodes.length - 1], C = 10, SIZE = 28;
for (const node of nodes) node.inShapes = node.inputs.map((k) => nodes[k].shape);
const net = { nodes, loss: lossNode };
const bytesOfText = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const floats = (text) => Float64Array.from(new Float32Array(bytesOfText(text).buffer));
const stored = () => nodes.map((node) => Object.fromEntries(Object.entries(node.values).map(([name, text]) => [name, floats(text)])));
const pixels = bytesOfText(network.samples.pixels);
const sample = (n) => Float64Array.from(pixels.subarray(n * SIZE * SIZE, (n + 1) * SIZE * SIZE), (v) => v / 255);

const root = document.getElementById("live"), byId = (id) => document.getElementById(id), words = root.dataset;
const state = { parameters: stored(), image: sample(0), truth: network.samples.labels[0], steps: 0, first: 0, down: false, last: null, waiting: false };
const minus = (text) => text.replace("-", "−");
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);

function run() {
  const { values } = forwardBatch(net, state.parameters, [state.image]);
  const z = values[lossNode.inputs[0]][0], top = Math.max(...z), e = z.map((v) => Math.exp(v - top)), sum = e.reduce((a, b) => a + b, 0);
  return { values, p: e.map((v) => v / sum) };
}

// One step of gradient descent on this picture alone: the backward pass begins with p − y.
function learn() {
  const options = { training: true }, target = targetOf(state.truth, C), done = forwardBatch(net, state.parameters, [state.image], options);
  const { dzs } = lossBatch(net, done.values, [target]), { grads } = backwardBatch(net, state.parameters, done, dzs, true);
  for (const node of nodes) for (const name of node.parameters) {
    const w = state.parameters[node.id][name], g = grads[node.id][name];
    for (let k = 0; k < w.length; k++) w[k] -= 0.01 * g[k];
  }
  state.steps += 1;
}

function paint(canvas, image, width, height, scale) {
  const pen = canvas.getContext("2d"), small = new OffscreenCanvas(width, height), ink = small.getContext("2d"), picture = ink.createImageData(width, height);
  for (let k = 0; k < width * height; k++) picture.data.set([...scale(image[k]), 255], 4 * k);
  ink.putImageData(picture, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, canvas.width, canvas.height);
}

const grey = (v) => Array(3).fill(Math.round(255 * Math.min(1, Math.max(0, v))));

function show() {
  const { values, p } = run();
  paint(byId("pad"), state.image, SIZE, SIZE, grey);
  const [K, H, W] = nodes[2].shape, maps = values[2][0], top = Math.max(1e-9, ...maps);
  [...byId("maps").children].forEach((canvas, k) => paint(canvas, maps.subarray(k * H * W, (k + 1) * H * W), W, H, (v) => {
    const s = Math.sqrt(v / top);
    return [20 + 215 * s, 26 + 150 * s, 34 + 60 * s].map(Math.round);
  }));
  const best = p.indexOf(Math.max(...p));
  [...byId("bars").children].forEach((row, k) => {
    const g = p[k] - (state.truth === k ? 1 : 0), bar = row.querySelector(".bar"), back = row.querySelector(".back");
    row.classList.toggle("best", k === best);
    bar.style.width = `${100 * p[k]}%`;
    row.querySelector(".p").textContent = p[k] < 0.0005 ? "0" : p[k].toFixed(3);
    back.textContent = state.truth === null ? "" : Math.abs(g) < 0.0005 ? "0" : minus((g > 0 ? "+" : "") + g.toFixed(3));
    back.className = `back ${Math.abs(g) < 0.0005 ? "" : g < 0 ? "neg" : "pos"}`;
  });
  for (const button of root.querySelectorAll(".digit")) button.setAttribute("aria-pressed", String(Number(button.dataset.digit) === state.truth));
  byId("step").disabled = state.truth === null;
  const L = state.truth === null ? null : -Math.log(Math.max(p[state.truth], 1e-300));
  byId("say").textContent = L === null ? words.think
    : state.steps ? fill(words.moved, { a: state.first.toFixed(3), b: L.toFixed(3), n: state.steps }) : fill(words.loss, { L: L.toFixed(3) });
  if (L !== null && !state.steps) state.first = L;
}

function showSoon() {
  if (state.waiting) return;
  state.waiting = true;
  requestAnimationFrame(() => ((state.waiting = false), show()));
}

function newImage(image, truth) {
  Object.assign(state, { image, truth, steps: 0 });
  showSoon();
}

function inkAt(row, column) {
  for (let i = Math.floor(row - 1); i <= row + 2; i++)
    for (let j = Math.floor(column - 1); j <= column + 2; j++) {
      if (i < 0 || i >= SIZE || j < 0 || j >= SIZE) continue;
      const strength = Math.min(1, Math.max(0, 1.6 - Math.hypot(i - row, j - column)));
      state.image[i * SIZE + j] = Math.max(state.image[i * SIZE + j], strength);
    }
}

function strokeTo(event) {
  const box = byId("pad").getBoundingClientRect();
  const to = [((event.clientY - box.top) / box.height) * SIZE - 0.5, ((event.clientX - box.left) / box.width) * SIZE - 0.5], from = state.last ?? to;
  const count = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let k = 1; k <= count; k++) inkAt(from[0] + ((to[0] - from[0]) * k) / count, from[1] + ((to[1] - from[1]) * k) / count);
  state.last = to;
  showSoon();
}

function start() {
  const pad = byId("pad");
  for (let k = 0; k < nodes[2].shape[0]; k++) byId("maps").append(Object.assign(document.createElement("canvas"), { width: 56, height: 56 }));
  for (let k = 0; k < C; k++) {
    const row = document.createElement("li");
    row.innerHTML = `<span class="name">${k}</span><span class="track"><span class="bar"></span></span><span class="p"></span><span class="back"></span>`;
    byId("bars").append(row);
  }
  for (let k = 0; k < C; k++) {
    const n = network.samples.labels.indexOf(k), button = document.createElement("button"), canvas = Object.assign(document.createElement("canvas"), { width: 28, height: 28 });
    button.type = "button";
    button.setAttribute("aria-label", fill(words.one, { n: k }));
    button.append(canvas);
    button.addEventListener("click", () => newImage(sample(n), k));
    paint(canvas, sample(n), SIZE, SIZE, grey);
    byId("samples").append(button);
  }
  pad.addEventListener("pointerdown", (event) => {
    if (!state.drawing) newImage(new Float64Array(SIZE * SIZE), null);
    Object.assign(state, { down: true, last: null, drawing: true });
    pad.setPointerCapture(event.pointerId);
    strokeTo(event);
  });
  pad.addEventListener("pointermove", (event) => state.down && strokeTo(event));
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, () => (state.down = false));
  byId("clear").addEventListener("click", () => newImage(new Float64Array(SIZE * SIZE), null));
  byId("step").addEventListener("click", () => (learn(), show()));
  byId("reset").addEventListener("click", () => {
    Object.assign(state, { parameters: stored(), steps: 0 });
    show();
  });
  for (const button of root.querySelectorAll(".digit")) button.addEventListener("click", () => {
    Object.assign(state, { truth: Number(button.dataset.digit), steps: 0 });
    show();
  });
  byId("samples").addEventListener("click", () => (state.drawing = false));
  byId("clear").addEventListener("click", () => (state.drawing = true));
  show();
}

start();
