// Two experiments in float64: the finite difference of one weight, and one step of gradient descent.

const trainable = nodes.filter((node) => node.parameters.length);
const lab = { node: trainable[0], tensor: trainable[0]?.parameters[0], index: null, logH: -4, curve: null, logRate: null, step: null, aim: null };
const chains = new Map();

// The network in float64, run once for each aim: the truth (null), another class to teach instead, or all ("even").
function floatChain(aim = null) {
  if (!chains.has(aim)) drain(chainSteps(aim));
  return chains.get(aim);
}

// The network on all images of a batch page, with its masks: values[id] is a list of images, that of the loss the mean.
const batchNet = { nodes, loss: lossNode };
const batchParameters = (change) => currentParameters().map((own, id) => ({ ...own, ...change.get(nodes[id]) }));

function batchPass(change = new Map()) {
  const masks = nodes.map((node) => (node.tensors.mask ? batchOf(node, "mask") : undefined));
  const images = batchOf(nodes[0], "y").map((x) => Float64Array.from(x));
  const run = forwardBatch(batchNet, batchParameters(change), images, { training: about.training, masks });
  const { loss, dzs } = lossBatch(batchNet, run.values, batchOf(lossNode, "target"));
  run.values[lossNode.id] = Float64Array.of(loss);
  return { run, dzs };
}

function* passSteps(change, base = null) {
  if (!isBatch) return yield* forwardSteps(change, base);
  const { run } = batchPass(change);
  yield null;
  return run.values;
}

function* chainSteps(aim) {
  if (isBatch) {
    const { run, dzs } = batchPass(), grads = backwardBatch(batchNet, batchParameters(new Map()), run, dzs, about.training).grads;
    yield null;
    return void chains.set(aim, { values: run.values, dys: null, grads, squares: squaresOf(grads), truth: {} });
  }
  const { data } = lossNode.tensors.target;
  const truth = aim === null ? {} : { target: Float64Array.from(data, (_, k) => (aim === "even" ? 1 / data.length : Number(k === aim))) };
  const values = yield* forwardSteps(new Map([[lossNode, truth]])), { dys, grads } = yield* backwardSteps(values, { truth });
  chains.set(aim, { values, dys, grads, squares: squaresOf(grads), truth });
}

function squaresOf(grads) {
  let squares = 0;
  for (const own of grads) for (const grad of Object.values(own ?? {})) for (const g of grad) squares += g * g;
  return squares;
}

// Gradients of one class's logit, kept until the numbers change.
function logitGradients(logit) {
  const key = `logit ${logit}`;
  if (!chains.has(key)) chains.set(key, runBackward(floatChain().values, { logit }).dys);
  return chains.get(key);
}

// A view that needs a long computation says so first, and appears when it is done.
function renderWhenReady(ready, steps, render) {
  if (ready() || networkWork * batchSize < feltWork) return render();
  const waiting = h("section", { class: "sheet" }, h("p", { role: "status", class: "computing" }, t("lab.computing")));
  runGently(steps(), () => waiting.isConnected && byId("content").replaceChildren(render()), () => waiting.isConnected || !byId("content").childElementCount);
  return waiting;
}

function* lossWith(node, tensor, index, delta) {
  const changed = Float64Array.from(node.tensors[tensor].data);
  changed[index] += delta;
  const values = yield* passSteps(new Map([[node, { [tensor]: changed }]]), floatChain().values);
  return { loss: lossOf(values), values };
}

// (L(w + h) − L(w − h)) / 2h against backprop, and the number of kinks between the two points.
function* finiteDifference({ node, tensor, index }, step) {
  const plus = yield* lossWith(node, tensor, index, step), minus = yield* lossWith(node, tensor, index, -step);
  const numeric = (plus.loss - minus.loss) / (2 * step), analytic = floatChain().grads[node.id][tensor][index];
  const error = Math.abs(numeric - analytic) / Math.max(Math.abs(numeric), Math.abs(analytic), 1e-300);
  const kinks = yield* kinksBetween(plus.values, minus.values);
  return { step, plus: plus.loss, minus: minus.loss, numeric, analytic, error: numeric === analytic ? 0 : error, kinks };
}

function testWeight(node, tensor, index) {
  Object.assign(lab, { node, tensor, index, curve: null });
  location.hash = "#/experiments";
}

function renderExperiments() {
  if (!trainable.length) return h("section", { class: "sheet" }, h("p", {}, t("lab.none")));
  // The weight with the largest gradient says most.
  if (lab.index === null) lab.index = statisticsOf(lab.node.tensors["d" + lab.tensor].data).maxAt;
  function* steps() {
    yield* chainSteps(null);
    if (lab.aim !== null) yield* chainSteps(lab.aim);
  }
  return renderWhenReady(() => chains.has(null) && chains.has(lab.aim), steps, () => h("div", {}, differenceCard(), stepCard()));
}

// Computes points between the reader's actions, layer by layer, and redraws; stops when the chart has gone.
function fillGradually(points, count, make, id, draw) {
  let drawn = 0;
  const redraw = () => {
    drawn = performance.now();
    byId(id).replaceChildren(draw());
  };
  function* work() {
    while (points.length < count) {
      points.push(yield* make(points.length));
      if (performance.now() > drawn + 100) redraw();
    }
  }
  setTimeout(() => {
    const holder = byId(id);
    if (!holder) return;
    holder.points = points;
    redraw();
    runGently(work(), redraw, () => byId(id)?.points === points);
  });
}

// Fills the element with what `lines` makes of a result: at once, or, where a pass would be felt, between the reader's
// actions; a later call for the same element replaces one that is still at work.
function showResult(holder, steps, lines) {
  if (networkWork * batchSize < feltWork) return holder.replaceChildren(...lines(drain(steps)));
  holder.steps = steps;
  if (!holder.childElementCount) holder.replaceChildren(h("dt", { class: "computing", role: "status" }, t("lab.computing")));
  runGently(steps, (result) => holder.replaceChildren(...lines(result)), () => holder.steps === steps);
}

// --- finite difference --------------------------------------------------------------------------------------------

function differenceCard() {
  const pickLayer = h("select", { id: "fd-layer", onchange: (event) => {
    lab.node = nodes[Number(event.target.value)];
    chooseWeight(lab.node.parameters[0], null);
  } }, trainable.map((node) => h("option", { value: node.id, selected: node === lab.node }, nodeTitle(node))));
  const pickTensor = h("select", { id: "fd-tensor", onchange: (event) => chooseWeight(event.target.value, null) },
    lab.node.parameters.map((name) => h("option", { value: name, selected: name === lab.tensor }, `${tensorTitle(lab.node, name)} (${name})`)));
  const shape = lab.node.tensors[lab.tensor].shape, place = unravel(lab.index, shape).join(", ");
  const field = h("input", { id: "fd-index", value: place, autocomplete: "off", onchange: (event) => {
    const found = cellFromKey(`${lab.node.id}/${lab.tensor}/${event.target.value.replace(/\s/g, "")}`);
    event.target.setAttribute("aria-invalid", String(!found));
    if (found) chooseWeight(lab.tensor, found.index);
    else announce(t("goto.outside", { shape: shapeText(shape) }));
  } });
  const slider = h("input", { type: "range", id: "fd-h", min: -12, max: 1, step: 0.25, value: lab.logH, "aria-valuetext": `h = ${number(10 ** lab.logH)}`, oninput: (event) => {
    lab.logH = Number(event.target.value);
    event.target.setAttribute("aria-valuetext", `h = ${number(10 ** lab.logH)}`);
    showResult(byId("fd-result"), numericAt(lab.logH), differenceLines);
    byId("fd-chart").replaceChildren(differenceChart());
  } });
  lab.curve ??= [];
  const result = h("dl", { class: "result columns", id: "fd-result" });
  showResult(result, numericAt(lab.logH), differenceLines);
  fillGradually(lab.curve, 53, (k) => numericAt(-12 + k / 4), "fd-chart", differenceChart);
  return h("section", { class: "sheet" }, h("div", { class: "sheet-head" }, h("h2", {}, t("fd.title"))),
    h("p", { class: "lead" }, t("fd.lead"), isBatch ? ` ${t("fd.batch", { n: batchSize })}` : null),
    h("div", { class: "form" },
      h("div", {}, h("label", { for: "fd-layer" }, t("fd.layer")), pickLayer),
      h("div", {}, h("label", { for: "fd-tensor" }, t("fd.tensor")), pickTensor),
      h("div", {}, h("label", { for: "fd-index" }, t("fd.index", { shape: shapeText(shape) })), field),
      h("div", { class: "wide" }, h("label", { for: "fd-h" }, t("fd.h")), slider)),
    result,
    h("div", { id: "fd-chart" }),
    h("p", { class: "fine" }, t("fd.reading")));
}

function chooseWeight(tensor, index) {
  Object.assign(lab, { tensor, index: index ?? statisticsOf(lab.node.tensors["d" + tensor].data).maxAt, curve: null });
  byId("content").replaceChildren(renderExperiments());
  byId("fd-index").focus();
}

const numericAt = (logH) => finiteDifference({ ...lab }, 10 ** logH);

function differenceLines(r) {
  const line = (key, value, id, text = number(value, 9)) => [h("dt", {}, t(key)), h("dd", { class: "num", id, "data-value": String(value) }, text)];
  return [
    ...line("fd.step", r.step, "fd-step", number(r.step, 3)), ...line("fd.plus", r.plus, "fd-plus"), ...line("fd.minus", r.minus, "fd-minus"),
    ...line("fd.numeric", r.numeric, "fd-numeric", signed(r.numeric, 9)), ...line("fd.analytic", r.analytic, "fd-analytic", signed(r.analytic, 9)),
    ...line("fd.error", r.error, "fd-error", number(r.error, 2)),
    h("dt", {}, t("fd.kinks")), h("dd", { class: "num", id: "fd-kinks", "data-value": String(r.kinks) }, r.kinks ? t("fd.crossed", { n: r.kinks }) : t("fd.smooth")),
  ];
}

function differenceChart() {
  const points = lab.curve.map((r) => [r.step, Math.max(r.error, 1e-17), r.kinks > 0]);
  return chart({
    series: [{ name: t("fd.curve"), style: "first", points }], yLog: true, xLabel: "h", yLabel: t("fd.error"),
    label: t("fd.chart", { best: number(Math.min(...points.map(([, y]) => y)), 2), kinks: points.filter(([, , k]) => k).length }), cursor: 10 ** lab.logH,
  });
}

// --- one step of gradient descent -----------------------------------------------------------------------------------

// L(w − lr·g) − L(w) for all parameters at once, and what the gradient alone predicts.
const descend = (rate, aim) => drain(descentSteps(rate, aim));

function* descentSteps(rate, aim = lab.aim) {
  const { values, grads, squares, truth } = floatChain(aim), change = new Map([[lossNode, truth]]);
  for (const node of trainable) {
    const moved = {};
    for (const name of node.parameters) {
      const grad = grads[node.id][name];
      moved[name] = Float64Array.from(node.tensors[name].data, (w, k) => w - rate * grad[k]);
    }
    change.set(node, moved);
  }
  const after = yield* passSteps(change, values);
  return { rate, predicted: -rate * squares, actual: lossOf(after) - lossOf(values), z: after[lossNode.inputs[0]] };
}

// From steps too small to matter to steps a hundred thousand times longer than the one that would end at L = 0.
function rateRange() {
  const { values, squares } = floatChain(lab.aim), natural = Math.log10(Math.max(lossOf(values), 1e-12) / Math.max(squares, 1e-300));
  return [Math.floor(natural) - 3, Math.floor(natural) + 4];
}

function stepCard() {
  const [low, high] = rateRange();
  lab.logRate ??= low + 2;
  lab.step ??= [];
  fillGradually(lab.step, 57, (k) => descentSteps(10 ** (low + ((high - low) * k) / 56)), "sgd-chart", stepChart);
  const slider = h("input", { type: "range", id: "sgd-rate", min: low, max: high, step: 0.05, value: lab.logRate, "aria-valuetext": `lr = ${number(10 ** lab.logRate)}`, oninput: (event) => {
    lab.logRate = Number(event.target.value);
    event.target.setAttribute("aria-valuetext", `lr = ${number(10 ** lab.logRate)}`);
    showResult(byId("sgd-result"), descentSteps(10 ** lab.logRate), stepLines);
    byId("sgd-chart").replaceChildren(stepChart());
  } });
  const result = h("dl", { class: "result columns", id: "sgd-result" });
  showResult(result, descentSteps(10 ** lab.logRate), stepLines);
  const truth = manifest.about.label, target = lossNode.tensors.target.data;
  const aim = h("select", { id: "sgd-class", onchange: (event) => {
    const chosen = event.target.value;
    Object.assign(lab, { aim: chosen === "even" ? chosen : Number(chosen) === truth ? null : Number(chosen), step: null, logRate: null });
    byId("content").replaceChildren(renderExperiments());
    byId("sgd-class").focus();
  } }, h("option", { value: "even", selected: lab.aim === "even" }, t("sgd.even")),
  [...target.keys()].map((k) => h("option", { value: k, selected: k === (lab.aim ?? truth) }, k === truth ? t("sgd.truth", { name: className(k) }) : className(k))));
  return h("section", { class: "sheet" }, h("div", { class: "sheet-head" }, h("h2", {}, t("sgd.title"))),
    h("p", { class: "lead" }, t("sgd.lead")),
    h("div", { class: "form" }, isBatch ? null : h("div", {}, h("label", { for: "sgd-class" }, t("sgd.class")), aim),
      h("div", { class: "wide" }, h("label", { for: "sgd-rate" }, t("sgd.rate")), slider)),
    result,
    h("div", { id: "sgd-chart" }),
    h("p", { class: "fine" }, t("sgd.reading")));
}

function stepLines(r) {
  const loss = lossOf(floatChain(lab.aim).values);
  const line = (key, value, id, plus = false) => [h("dt", {}, t(key)),
    h("dd", { class: `num ${plus ? signClass(value) : ""}`, id, "data-value": String(value) }, number(value, 7, plus))];
  const verdict = r.actual > 0 ? "sgd.overshot" : loss + r.actual < 1e-3 * loss ? "sgd.floor" : r.actual < 0.5 * r.predicted ? "sgd.good" : "sgd.curved";
  return [
    ...line("sgd.lr", r.rate, "sgd-lr"), ...line("sgd.norm", floatChain(lab.aim).squares, "sgd-norm"),
    ...line("sgd.predicted", r.predicted, "sgd-predicted", true), ...line("sgd.actual", r.actual, "sgd-actual", true),
    ...line("sgd.after", loss + r.actual, "sgd-after"),
    h("dt", {}, t("sgd.verdict")), h("dd", { id: "sgd-verdict" }, t(verdict)),
  ];
}

function stepChart() {
  const actual = lab.step.map((r) => [r.rate, r.actual]), predicted = lab.step.map((r) => [r.rate, r.predicted]);
  const loss = lossOf(floatChain(lab.aim).values), rise = Math.max(...actual.map(([, y]) => y).filter(Number.isFinite));
  const bottom = -1.3 * Math.max(loss, 1e-12), top = Math.max(Math.min(rise, 3 * Math.max(loss, 1e-12)), 0.3 * loss);
  return chart({
    series: [{ name: t("sgd.predicted"), style: "second", points: predicted }, { name: t("sgd.actual"), style: "first", points: actual }],
    xLabel: t("sgd.lr"), yLabel: t("sgd.change"), label: t("sgd.chart"), cursor: 10 ** lab.logRate, yRange: [bottom, top],
  });
}
