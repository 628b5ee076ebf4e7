// The live network: draw, choose, change, and train it here; weights, gradients, p − y and the loss move.

const training = {
  settings: { method: "sgd", lr: 0.05, momentum: 0, nesterov: false, decay: 0, beta1: 0.9, beta2: 0.999, eps: 1e-8, batch: 16, smoothing: 0 },
  running: false, history: [], last: null, watch: null, seed: 1,
};
const mostWork = 6e7; // multiplications of one image above which training here would be slow

const canTrain = () => samples && trainable.length && networkWork < mostWork;

function renderTrain() {
  training.watch ??= trainable.length ? trainedCellOf(trainable[0]) : null;
  return h("section", { class: "train", id: "train" },
    h("div", { class: "sheet lab" }, h("div", { class: "sheet-head" }, h("h2", {}, t("train.title"))), h("p", { class: "lead" }, t("train.lead")),
      h("div", { class: "lab-columns" },
        h("div", {}, drawingPad()),
        h("div", {}, h("h3", {}, t("train.follows")), h("div", { id: "train-bars" }, trainBars()), h("div", { id: "train-maps", class: "mini" }, miniMaps()))),
      sampleStrip()),
    canTrain() ? trainSheet() : h("p", { class: "sheet" }, t(samples ? "train.heavy" : "train.nosamples")));
}

const trainedCellOf = (node) => largestCell(node, "d" + node.parameters[0]);

// p and p − y of every class, side by side.
function trainBars() {
  const p = lossNode.tensors.p.data, dz = nodes[lossNode.inputs[0]].tensors.dy.data;
  return [h("p", { class: "verdict small", id: "train-verdict" }, verdictText(), ` L = ${number(lossNode.tensors.y.data[0], 4)}`),
    h("div", { class: "pair" }, h("figure", {}, h("figcaption", {}, "p"), classBars(p, false)), h("figure", {}, h("figcaption", {}, "p − y"), classBars(dz, true)))];
}

// Filters and maps of the first convolution, small: they move with every change.
function miniMaps(conv = nodes.find((node) => node.kind === "Conv2d") ?? trainable[0]) {
  if (!conv) return [];
  const one = (tensor, label) => {
    const map = new ValueMap(conv, tensor, { width: Math.min(430, innerWidth - 70), cellSize: tensor === "y" ? 2 : conv.tensors[tensor].data.length > 2000 ? 3 : sizeOf(conv.tensors[tensor].shape.slice(-2)) > 30 ? 4 : 7 });
    map.paint();
    return h("figure", {}, h("figcaption", {}, label), h("div", { class: "mapbox" }, map.canvas));
  };
  const name = nodeTitle(conv), maps = [one("weight", `w · ${name}`), one("dweight", `∂L/∂w · ${name}`)];
  return conv.shape.length === 3 && conv.shape[0] <= 32 && conv.shape[1] <= 32 ? [...maps, one("y", `y · ${name}`)] : maps;
}

function trainSheet() {
  const { settings } = training;
  const slider = (name, low, high, step, show, value = settings[name]) => {
    const output = h("output", { for: `train-${name}` }, show(value));
    const text = () => show(settings[name]);
    return h("div", { class: "dial" }, h("label", { for: `train-${name}` }, t(`train.${name}`), " ", output), h("input", { type: "range", id: `train-${name}`, min: low, max: high, step, value: name === "lr" ? Math.log10(value) : value, "aria-valuetext": show(value), oninput: (event) => {
      settings[name] = name === "lr" ? 10 ** Number(event.target.value) : Number(event.target.value);
      output.textContent = text();
      event.target.setAttribute("aria-valuetext", text());
      sendSettings();
    } }));
  };
  const method = h("select", { id: "train-method", onchange: (event) => {
    const adam = event.target.value === "adam";
    Object.assign(settings, { method: adam ? "adam" : "sgd", momentum: event.target.value === "momentum" || event.target.value === "nesterov" ? settings.momentum || 0.9 : 0, nesterov: event.target.value === "nesterov", lr: adam ? Math.min(settings.lr, 0.002) : Math.max(settings.lr, 0.02) });
    sendSettings();
    byId("train-sheet").replaceWith(trainSheet());
    byId("train-method").focus();
  } }, ["sgd", "momentum", "nesterov", "adam"].map((name) => h("option", { value: name, selected: name === methodName() }, t(`method.${name}`))));
  const button = (id, key, act, main = false) => h("button", { class: `button ${main ? "main" : ""}`, id, onclick: act }, t(key));
  return h("div", { class: "sheet", id: "train-sheet" }, h("div", { class: "sheet-head" }, h("h2", {}, t("train.press")), h("span", { class: "fine", id: "train-speed" })),
    h("div", { class: "tools" }, button("train-run", training.running ? "train.pause" : "train.run", toggleTraining, true), button("train-step", "train.step", () => startTraining("step")),
      button("train-random", "train.random", restartRandom), button("train-stored", "train.stored", () => {
        pauseTraining();
        training.history = [];
        restoreStored("train-stored");
      }),
      h("span", { class: "dial inline" }, h("label", { for: "train-seed" }, t("train.seed")), h("input", { id: "train-seed", type: "number", min: 0, max: 9999, value: training.seed, onchange: (event) => (training.seed = Math.max(0, Math.floor(Number(event.target.value) || 0))) }))),
    h("div", { class: "dials" }, h("div", { class: "dial" }, h("label", { for: "train-method" }, t("train.method")), method),
      slider("lr", -4, 1, 0.05, (v) => number(v, 2)),
      settings.method === "sgd" && settings.momentum ? slider("momentum", 0.05, 0.99, 0.01, (v) => number(v, 2)) : null,
      slider("decay", 0, 0.05, 0.0005, (v) => number(v, 2)), slider("batch", 1, Math.min(48, samples.labels.length - samples.held), 1, (v) => String(v))),
    h("p", { class: "fine" }, t(`method.${methodName()}.text`)),
    h("div", { id: "train-message", role: "status" }, trainMessage()),
    h("div", { class: "lab-columns" },
      h("div", { id: "train-chart" }, lossChart()),
      h("div", { id: "train-terms" }, updateLines())),
    h("div", { id: "train-layers" }, layerTable()));
}

const methodName = () => (training.settings.method === "adam" ? "adam" : training.settings.nesterov ? "nesterov" : training.settings.momentum ? "momentum" : "sgd");

function sendSettings() {
  if (trainerLoaded.fresh) trainerPost({ do: "settings", settings: { ...training.settings } });
}

function toggleTraining() {
  if (training.running) return pauseTraining();
  startTraining("run");
}

function pauseTraining() {
  if (training.running) trainerPost({ do: "pause" });
  training.running = false;
  if (byId("train-run")) byId("train-run").textContent = t("train.run");
}

function startTraining(what) {
  trainerLoaded.heard = hearTrainer;
  if (!trainerLoaded.fresh) loadTrainer({ ...training.settings }, training.seed);
  const { watch } = training;
  trainerPost({ do: "watch", watch: { id: watch.node.id, name: watch.tensor.slice(1), index: watch.index } });
  if (what === "run") (training.running = true), (byId("train-run").textContent = t("train.pause"));
  trainerPost({ do: what });
}

function restartRandom() {
  pauseTraining();
  training.history = [];
  training.last = null;
  trainerLoaded.fresh = false;
  setLive({ parameters: randomParameters(training.seed), steps: 0, moment: null }, "train-random");
}

function hearTrainer(answer) {
  if (!trainerLoaded.fresh) return;
  const before = training.history.at(-1)?.[0] ?? 0;
  answer.losses.forEach((loss, k) => training.history.push([answer.step - answer.losses.length + k + 1, loss]));
  if (training.history.length > 2000) training.history = training.history.filter((_, k) => k % 2 === 0);
  training.last = { ...answer, parameters: null };
  if (training.running && !answer.running) pauseTraining();
  if (before > answer.step) training.history = training.history.slice(-answer.losses.length);
  setLive({ parameters: answer.parameters, steps: answer.step, moment: null });
  requestAnimationFrame(() => trainerPost({ do: "taken" }));
}

// What moves with every step or stroke; controls keep their focus.
function updateTrain() {
  paintPad();
  forgetMaps();
  byId("train-bars").replaceChildren(...trainBars());
  byId("train-maps").replaceChildren(...miniMaps());
  if (!byId("train-sheet")) return;
  byId("train-message").replaceChildren(trainMessage());
  byId("train-chart").replaceChildren(lossChart());
  byId("train-terms").replaceChildren(...updateLines());
  byId("train-layers").replaceChildren(layerTable());
  byId("train-speed").textContent = training.last ? t("train.speed", { n: number(1000 / Math.max(training.last.milliseconds, 0.01), 2), batch: training.settings.batch }) : "";
}

function trainMessage() {
  const { last } = training, loss = last?.loss, percent = (v) => (v === null || v === undefined ? "–" : `${number(100 * v, 3)} %`);
  if (!last) return h("p", {}, t("train.ready", { n: samples.labels.length - samples.held, batch: training.settings.batch }));
  // Worse than several times a blind guess within the last steps: the steps are too long.
  const recent = training.history.slice(-10).map(([, y]) => y), blind = Math.log(lossNode.tensors.p.data.length);
  if (recent.some((y) => !(y < 4 * blind))) return h("p", { class: "warning" }, t("train.diverged", { lr: number(training.settings.lr, 2) }));
  return h("p", { id: "train-state", "data-step": last.step }, t("train.state", { step: last.step, loss: number(loss, 4), accuracy: percent(last.accuracy), held: percent(last.heldAccuracy) }));
}

function lossChart() {
  const points = training.history.map(([x, y]) => [x, y]);
  if (!points.length) return h("p", { class: "fine" }, t("train.nochart"));
  return chart({ series: [{ name: t("train.loss"), style: "first", points }], xLog: false, yLog: true, xLabel: t("train.steps"), yLabel: t("page.loss"), label: t("train.chart", { n: points.length, loss: number(points.at(-1)[1], 3) }) });
}

// The last update of one weight, term by term; the weight can be any.
function updateLines() {
  const c = training.watch;
  if (!c) return [];
  const name = c.tensor.slice(1), weight = cell(c.node, name, c.index);
  const layer = h("select", { id: "watch-layer", "aria-label": t("watch.layer"), onchange: (event) => watchCell(trainedCellOf(nodes[Number(event.target.value)])) }, trainable.map((node) => h("option", { value: node.id, selected: node === c.node }, nodeTitle(node))));
  const field = h("input", { id: "watch-index", value: positionOf(weight).join(", "), "aria-label": t("fd.index", { shape: shapeText(weight.node.tensors[name].shape) }), autocomplete: "off", onchange: (event) => {
    const found = cellFromKey(`${c.node.id}/${name}/${event.target.value.replace(/\s/g, "")}`);
    event.target.setAttribute("aria-invalid", String(!found));
    if (found) watchCell(cell(c.node, c.tensor, found.index));
  } });
  return [h("h3", {}, t("watch.title")), h("div", { class: "tools" }, layer, field, h("a", { class: "quiet", href: `#/network/${cellKey(weight)}` }, t("watch.open"))),
    training.last?.terms ? termLines(training.last.terms) : h("p", { class: "fine" }, t("watch.empty"))];
}

function watchCell(c) {
  training.watch = c;
  if (training.last) training.last.terms = null;
  if (trainerLoaded.fresh) trainerPost({ do: "watch", watch: { id: c.node.id, name: c.tensor.slice(1), index: c.index } });
  byId("train-terms").replaceChildren(...updateLines());
}

// Sizes of weights and gradients, layer by layer: of the batch once there was one, before that of the image shown.
function layerTable() {
  const grads = training.last?.grads, norm = (data) => Math.sqrt(data.reduce((sum, v) => sum + v * v, 0));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("layers.title") }, h("table", { class: "losstable" }, h("caption", {}, t(grads ? "layers.title" : "layers.image")),
    h("thead", {}, h("tr", {}, ["layers.layer", "‖w‖", "‖∂L/∂w‖", "‖∂L/∂w‖ / ‖w‖"].map((name) => h("th", { scope: "col" }, name.startsWith("layers") ? t(name) : name)))),
    h("tbody", {}, trainable.filter((node) => node.tensors.weight).map((node) => {
      const w = norm(node.tensors.weight.data), g = norm(grads?.[node.id].weight ?? node.tensors.dweight.data);
      return h("tr", {}, h("th", { scope: "row" }, nodeTitle(node)), [w, g, g / w].map((v) => h("td", { class: "num" }, number(v, 3))));
    }))));
}
