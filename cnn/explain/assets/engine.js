// The whole network in float64: one pass forward, one backward, and the comparison with the stored float32 numbers.

const layerForward = (node, xs, p) => layerKinds[node.kind].forward(node, xs, p);
const layerBackward = (node, xs, y, dy, p) => layerKinds[node.kind].backward(node, xs, y, dy, p);

// Runs the chain from the pixels. With `base` (an earlier run) only what depends on the changed parameters is redone.
// change: Map(node -> { weight: array, … }) replaces parameters.
const runForward = (change, base) => drain(forwardSteps(change, base));

// The same layer by layer: yields after each, returns the values.
function* forwardSteps(change = new Map(), base = null) {
  const values = [], dirty = [];
  for (const node of nodes) {
    dirty[node.id] = !base || change.has(node) || node.inputs.some((k) => dirty[k]);
    if (!dirty[node.id]) values[node.id] = base[node.id];
    else if (node.kind === "Input") values[node.id] = Float64Array.from(node.tensors.y.data);
    else {
      const xs = node.inputs.map((k) => values[k]);
      values[node.id] = layerForward(node, xs, { ...parametersOf(node), ...change.get(node) });
      yield null;
    }
  }
  return values;
}

// Runs a generator to its end; what it returns.
function drain(work) {
  let step = work.next();
  while (!step.done) step = work.next();
  return step.value;
}

// Runs it between the reader's actions, some 14 ms at a time, then calls done(value); stops when alive() says so.
function runGently(work, done, alive = () => true) {
  const slice = () => {
    const until = performance.now() + 14;
    while (alive() && performance.now() < until) {
      const { value, done: finished } = work.next();
      if (finished) return done(value);
    }
    if (alive()) setTimeout(slice);
  };
  setTimeout(slice);
}

// Multiplications of one pass of one image: above this a pass would be felt, and views say that they compute.
const feltWork = 4e6;
const workOf = (node) => (node.stored.weight && !isNorm(node) ? sizeOf(node.stored.weight.shape) * (node.shape.length === 3 ? sizeOf((node.kind === "ConvTranspose2d" ? node.inShapes[0] : node.shape).slice(1)) : 1) : 0);
const networkWork = nodes.reduce((sum, node) => sum + workOf(node), 0);

const lossOf = (values) => values[lossNode.id][0];

// Gradients of the loss, or of logit number `logit`, along a forward run; `truth` replaces the target of the loss.
const runBackward = (values, options) => drain(backwardSteps(values, options));

function* backwardSteps(values, { logit = null, truth = {} } = {}) {
  const dys = [], grads = [];
  const add = (k, dx) => (dys[k] = dys[k] ? dys[k].map((v, q) => v + dx[q]) : dx);
  for (const node of [...nodes].reverse()) {
    if (node.kind === "Input") continue;
    const xs = node.inputs.map((k) => values[k]);
    if (node === lossNode && logit !== null) {
      add(node.inputs[0], Float64Array.from(xs[0], (_, k) => (k === logit ? 1 : 0)));
      continue;
    }
    const { dx, grads: own } = layerBackward(node, xs, values[node.id], dys[node.id], { ...parametersOf(node), ...(node === lossNode ? truth : {}) });
    grads[node.id] = own;
    node.inputs.forEach((k, slot) => add(k, dx[slot]));
    yield null;
  }
  return { dys, grads };
}

// Which side of each kink (ReLU gate, pool winner) a run is on; the number of places where two runs differ. Yields after
// each layer.
function* kinksBetween(a, b) {
  let crossed = 0;
  for (const node of nodes) {
    const choices = layerKinds[node.kind]?.choices;
    if (!choices || node.inputs.every((k) => a[k] === b[k])) continue;
    for (let n = 0; n < batchSize; n++) {
      const [left, right] = [a, b].map((run) => choices(node, node.inputs.map((k) => (isBatch ? run[k][n] : run[k]))));
      for (let k = 0; k < left.length; k++) if (left[k] !== right[k]) crossed++;
    }
    yield null;
  }
  return crossed;
}

// --- the banner: every stored number against its float64 recomputation, layer by layer ----------------------------

// One float32 layer is allowed this error, as a fraction of the largest number of the tensor.
const tolerance = 5e-5;
// p - y of a confident network cancels: there the error is a float32 rounding of p, not of the difference.
const lossSlack = 2e-6;

const differenceAt = (stored, computed, k) => (Object.is(stored[k], computed[k]) ? 0 : Math.abs(stored[k] - computed[k]));

function largestDifference(stored, computed) {
  let worst = 0, at = 0, scale = 0;
  for (let k = 0; k < stored.length; k++) {
    const d = differenceAt(stored, computed, k);
    if (!(d <= worst)) (worst = d), (at = k);
    if (Math.abs(computed[k]) > scale) scale = Math.abs(computed[k]);
  }
  return { worst, at, scale };
}

// A sum whose terms cancel (a bias before BatchNorm has gradient 0) keeps the rounding of its terms. So what looks
// wrong beside the tensor's size is measured again beside the size of its own terms; false as soon as that fails too.
function onlyCancellation(node, tensor, stored, computed, allowed) {
  let checked = 0;
  for (let k = 0; k < stored.length; k++) {
    const d = differenceAt(stored, computed, k);
    if (d <= allowed) continue;
    const size = explain(cell(node, tensor, k)).terms.reduce((sum, term) => sum + Math.abs(term.value), 0);
    if (!(d <= 0.1 * tolerance * size) || ++checked > 500) return false;
  }
  return true;
}

// What a layer makes of the stored inputs of every image: an array for each.
function forwardImages(node) {
  const p = parametersOf(node), xs = node.inputs.map((k) => batchOf(nodes[k], "y")), kind = layerKinds[node.kind];
  if (node === lossNode) {
    const targets = batchOf(node, "target"), losses = xs[0].map((z, n) => kind.forward(node, [z], { target: targets[n] })[0]);
    return losses.map(() => Float64Array.of(losses.reduce((a, b) => a + b, 0) / batchSize));
  }
  if (kind.forwardBatch) return kind.forwardBatch(node, xs[0], p, node.attrs.training).ys;
  if (node.tensors.mask) return xs[0].map((x, n) => Float64Array.from(x, (v, k) => v * node.batch[n].mask.data[k]));
  return xs[0].map((_, n) => kind.forward(node, xs.map((x) => x[n]), p));
}

// The gradients a layer sends on, dxs[slot][image], and those of its parameters, summed over the images.
function backwardImages(node) {
  const p = parametersOf(node), xs = node.inputs.map((k) => batchOf(nodes[k], "y")), kind = layerKinds[node.kind], grads = {};
  if (node === lossNode) {
    const targets = batchOf(node, "target");
    return { dxs: [xs[0].map((z, n) => kind.backward(node, [z], null, null, { target: targets[n] }).dx[0].map((v) => v / batchSize))], grads };
  }
  const ys = batchOf(node, "y"), dys = batchOf(node, "dy");
  if (kind.backwardBatch) {
    const made = kind.backwardBatch(node, xs[0], dys, p, node.attrs.training);
    return { dxs: [made.dxs], grads: made.grads };
  }
  if (node.tensors.mask) return { dxs: [dys.map((dy, n) => Float64Array.from(dy, (v, k) => v * node.batch[n].mask.data[k]))], grads };
  for (const name of node.parameters) grads[name] = new Float64Array(p[name].length);
  const all = ys.map((y, n) => kind.backward(node, xs.map((x) => x[n]), y, dys[n], p, grads).dx);
  return { dxs: node.inputs.map((_, slot) => all.map((dx) => dx[slot])), grads };
}

// Yields { node, tensor, reason, ... } for each fault, and counts compared values in report.count.
function* faults(report) {
  const compare = (owner, tensor, stored, computed, slack = 0) => {
    const { worst, at, scale } = largestDifference(stored, computed);
    report.count += stored.length;
    const allowed = tolerance * scale + slack, fine = worst <= allowed;
    if (!fine && !onlyCancellation(owner, tensor, stored, computed, allowed)) {
      return { node: owner, tensor, reason: "value", at, stored: stored[at], computed: computed[at] };
    }
    if (fine && scale > 0) report.error = Math.max(report.error, worst / Math.max(scale, slack / tolerance));
    return null;
  };
  for (const node of nodes) {
    for (const [name, tensor] of Object.entries(node.tensors)) {
      if (!tensor.spec) continue;
      const start = tensor.spec.offset * 4;
      if (crc32(blobBytes, start, start + tensor.spec.size * 4) !== tensor.spec.crc) {
        yield { node, tensor: name, reason: "bytes" };
      }
    }
  }
  for (const node of nodes) {
    if (node.kind === "Input" || node.values_only) continue;
    const slack = node === lossNode ? lossSlack : 0;
    const ys = forwardImages(node), stored = batchOf(node, "y");
    for (let n = 0; n < (node === lossNode ? 1 : batchSize); n++) yield compare(node, "y", stored[n], ys[n], slack);
    if (node === lossNode) {
      const p = batchOf(node, "p"), zs = batchOf(nodes[node.inputs[0]], "y");
      for (let n = 0; n < batchSize; n++) yield compare(node, "p", p[n], layerKinds[node.kind].answers(zs[n], node.tensors.target.data.length), slack);
    }
  }
  const sums = [];
  for (const node of [...nodes].reverse()) {
    if (sums[node.id]) {
      const slack = node.consumers.some((c) => c.node === lossNode) ? lossSlack : 0;
      for (const [n, stored] of batchOf(node, "dy").entries()) {
        const fault = compare(node, "dy", stored, sums[node.id][n], slack);
        // dL/da is made by the layer that consumed a: that is the layer to blame.
        yield fault && { ...fault, blamed: node.consumers[0].node };
      }
    }
    if (node.kind === "Input") continue;
    const { dxs, grads } = backwardImages(node);
    if (!node.values_only) for (const [name, grad] of Object.entries(grads)) yield compare(node, "d" + name, node.tensors["d" + name].data, grad);
    node.inputs.forEach((k, slot) => (sums[k] = sums[k] ? sums[k].map((own, n) => own.map((v, q) => v + dxs[slot][n][q])) : dxs[slot]));
  }
  report.loss = isBatch ? forwardImages(lossNode)[0][0] : lossOf(yield* forwardSteps());
}

let verdict = null; // the report of the verification, when it is there
let verification = null; // { report, work } while it runs

// Works in slices of about 12 ms so that the page stays responsive.
function verify() {
  const report = { count: 0, error: 0, loss: 0, fault: null };
  verification = { report, work: faults(report) };
  const slice = () => {
    const until = performance.now() + 12;
    while (verification && performance.now() < until) advanceVerification();
    if (verification) setTimeout(slice);
  };
  setTimeout(slice);
}

function advanceVerification() {
  const { report, work } = verification, { value, done } = work.next();
  if (value && !report.fault) report.fault = value;
  if (!done && !report.fault) return;
  verification = null;
  verdict = report;
  showBanner();
}

// To the end at once: the stored numbers are about to be covered by others.
function finishVerification() {
  while (verification) advanceVerification();
}
