// A batch in float64: several images through the same layers, and the gradients of the mean of their losses.
// net = { nodes, loss }: nodes as in the manifest with inShapes; the last one is the loss.
// parameters[id] = { weight, bias, running_mean, running_var } are Float64Arrays.

// values[id][n] is what node id makes of image n. `random` draws dropout's masks; without it those in `masks` count, by
// node id and image, and where there are none dropout is off.
function forwardBatch(net, parameters, images, { training = false, random = null, masks: given = [] } = {}) {
  const values = [], moved = [], masks = [...given];
  for (const node of net.nodes) {
    if (node === net.loss) continue;
    const kind = layerKinds[node.kind], p = parameters[node.id];
    if (node.kind === "Input") values[node.id] = images;
    else if (kind.forwardBatch) {
      const { ys, statistics } = kind.forwardBatch(node, values[node.inputs[0]], p, training);
      values[node.id] = ys;
      if (training) moved.push({ node, statistics });
    } else if (node.kind === "Dropout" && training && random && node.attrs.p > 0) {
      const keep = 1 - node.attrs.p;
      masks[node.id] = values[node.inputs[0]].map((x) => Float64Array.from(x, () => (random() < keep ? 1 / keep : 0)));
      values[node.id] = values[node.inputs[0]].map((x, n) => x.map((v, k) => v * masks[node.id][n][k]));
    } else if (masks[node.id]) values[node.id] = values[node.inputs[0]].map((x, n) => x.map((v, k) => v * masks[node.id][n][k]));
    else values[node.id] = images.map((_, n) => kind.forward(node, node.inputs.map((k) => values[k][n]), p));
  }
  return { values, moved, masks };
}

// The mean loss of a forward run, and dz = (p − y)/N for each image.
function lossBatch(net, values, targets) {
  let loss = 0;
  const count = targets.length, dzs = values[net.loss.inputs[0]].map((z, n) => {
    loss += layerKinds.Loss.forward(net.loss, [z], { target: targets[n] })[0] / count;
    return layerKinds.Loss.backward(net.loss, [z], null, null, { target: targets[n] }).dx[0].map((v) => v / count);
  });
  return { loss, dzs };
}

// Gradients of all parameters, summed over the images: grads[id] = { weight, bias }; that of the pixels is left out.
function backwardBatch(net, parameters, { values, masks }, dzs, training) {
  const dys = [], grads = [], last = net.loss.inputs[0];
  dys[last] = dzs;
  const arrive = (id, n, dx) => {
    dys[id] ??= [];
    dys[id][n] = dys[id][n] ? addInto(dys[id][n], dx) : dx;
  };
  for (const node of [...net.nodes].reverse()) {
    if (node.kind === "Input" || node === net.loss) continue;
    const kind = layerKinds[node.kind], p = parameters[node.id], into = {};
    for (const name of node.parameters) into[name] = new Float64Array(p[name].length);
    grads[node.id] = into;
    if (kind.backwardBatch) {
      const { dxs } = kind.backwardBatch(node, values[node.inputs[0]], dys[node.id], p, training, into);
      dxs.forEach((dx, n) => arrive(node.inputs[0], n, dx));
      continue;
    }
    dys[node.id].forEach((dy, n) => {
      if (masks[node.id]) return arrive(node.inputs[0], n, dy.map((v, k) => v * masks[node.id][n][k]));
      // A branch must not share one array with its twin: what arrives is added in place.
      const wantsInput = node.inputs.some((k) => net.nodes[k].kind !== "Input");
      const { dx } = kind.backward(node, node.inputs.map((k) => values[k][n]), values[node.id][n], dy, p, into, wantsInput);
      node.inputs.forEach((k, slot) => dx[slot] && arrive(k, n, dx[slot]));
    });
  }
  return { dys, grads };
}

// The running statistics of BatchNorm take a step towards the batch's, its variance divided by M − 1.
function moveStatistics(parameters, moved) {
  for (const { node, statistics: s } of moved) {
    const p = parameters[node.id], momentum = node.attrs.momentum ?? 0.1;
    for (let c = 0; c < s.mean.length; c++) {
      p.running_mean[c] += momentum * (s.mean[c] - p.running_mean[c]);
      p.running_var[c] += momentum * (s.variance[c] * (s.count / (s.count - 1)) - p.running_var[c]);
    }
  }
}

// One-hot, with label smoothing s: 1 − s + s/C for the true class, s/C for the others.
function targetOf(label, classes, smoothing = 0) {
  const target = new Float64Array(classes).fill(smoothing / classes);
  target[label] += 1 - smoothing;
  return target;
}
