// Layers that treat each image on its own: normalisation by groups or as a whole, PReLU; and planes made larger or smaller.

const isNorm = (node) => /Norm/.test(node.kind);

// Mean and 1/sqrt(var + eps) of every group of channels of an image; of LayerNorm the image is the only group.
function groupStatistics(node, x) {
  const groups = node.attrs.num_groups ?? 1, each = x.length / groups;
  const mean = new Float64Array(groups), variance = new Float64Array(groups), rstd = new Float64Array(groups);
  for (let g = 0; g < groups; g++) {
    let m = 0, v = 0;
    for (let k = g * each; k < (g + 1) * each; k++) m += x[k];
    m /= each;
    for (let k = g * each; k < (g + 1) * each; k++) v += (x[k] - m) ** 2;
    mean[g] = m;
    variance[g] = v / each;
    rstd[g] = 1 / Math.sqrt(variance[g] + node.attrs.eps);
  }
  return { mean, variance, rstd, each };
}

// Which element of gamma and beta belongs to value k: that of its channel, or of LayerNorm its own.
const affineAt = (node, k) => (node.kind === "LayerNorm" ? k : Math.floor(k / (sizeOf(node.shape) / node.shape[0])));

// Per group: the sums of u and of u * xhat, u = dy * gamma.
function groupSums(node, x, dy, p, { mean, rstd, each }) {
  const plain = new Float64Array(mean.length), weighted = new Float64Array(mean.length);
  for (let k = 0; k < x.length; k++) {
    const g = Math.floor(k / each), u = dy[k] * (p.weight ? p.weight[affineAt(node, k)] : 1);
    plain[g] += u;
    weighted[g] += u * (x[k] - mean[g]) * rstd[g];
  }
  return { plain, weighted };
}

layerKinds.GroupNorm = layerKinds.LayerNorm = {
  forward(node, [x], p) {
    const { mean, rstd, each } = groupStatistics(node, x), y = new Float64Array(x.length);
    for (let k = 0; k < x.length; k++) {
      const g = Math.floor(k / each), at = affineAt(node, k);
      y[k] = (x[k] - mean[g]) * rstd[g] * (p.weight ? p.weight[at] : 1) + (p.bias ? p.bias[at] : 0);
    }
    return y;
  },
  backward(node, [x], y, dy, p, into) {
    const s = groupStatistics(node, x), { mean, rstd, each } = s, sums = groupSums(node, x, dy, p, s), dx = new Float64Array(x.length), grads = {};
    for (const name of node.parameters) grads[name] = into?.[name] ?? new Float64Array(p[name].length);
    for (let k = 0; k < x.length; k++) {
      const g = Math.floor(k / each), at = affineAt(node, k), xhat = (x[k] - mean[g]) * rstd[g];
      dx[k] = rstd[g] * (dy[k] * (p.weight ? p.weight[at] : 1) - sums.plain[g] / each - (xhat * sums.weighted[g]) / each);
      if (grads.weight) grads.weight[at] += dy[k] * xhat;
      if (grads.bias) grads.bias[at] += dy[k];
    }
    return { dx: [dx], grads };
  },
};

// Which slope belongs to value k: the only one, or that of its channel.
const slopeAt = (node, k) => (node.stored.weight.size === 1 ? 0 : Math.floor(k / (sizeOf(node.shape) / node.shape[0])));

layerKinds.PReLU = {
  forward: (node, [x], p) => Float64Array.from(x, (v, k) => (v > 0 ? v : p.weight[slopeAt(node, k)] * v)),
  backward(node, [x], y, dy, p, into) {
    const dx = new Float64Array(x.length), weight = into?.weight ?? new Float64Array(p.weight.length);
    for (let k = 0; k < x.length; k++) {
      const at = slopeAt(node, k);
      dx[k] = x[k] > 0 ? dy[k] : p.weight[at] * dy[k];
      if (!(x[k] > 0)) weight[at] += dy[k] * x[k];
    }
    return { dx: [dx], grads: { weight } };
  },
  choices: (node, [x]) => Int32Array.from(x, (v) => (v > 0 ? 1 : 0)),
};

// The pixel that output cell o is a copy of, or -1 where it is none.
function sourceOf(node, o) {
  const [c, i, j] = unravel(o, node.shape), [, H, W] = node.inShapes[0];
  const [a, b] = node.kind === "Upsample" ? [Math.floor(i / node.attrs.scale_factor[0]), Math.floor(j / node.attrs.scale_factor[1])]
    : [i - node.attrs.padding[0][0], j - node.attrs.padding[1][0]];
  return a < 0 || a >= H || b < 0 || b >= W ? -1 : (c * H + a) * W + b;
}

layerKinds.Upsample = layerKinds.ZeroPad2d = {
  forward(node, [x]) {
    const y = new Float64Array(sizeOf(node.shape));
    for (let o = 0; o < y.length; o++) {
      const from = sourceOf(node, o);
      if (from >= 0) y[o] = x[from];
    }
    return y;
  },
  backward(node, [x], y, dy) {
    const dx = new Float64Array(x.length);
    for (let o = 0; o < dy.length; o++) {
      const from = sourceOf(node, o);
      if (from >= 0) dx[from] += dy[o];
    }
    return { dx: [dx], grads: {} };
  },
};

// y = x − log Σ exp(x) over the channels, at each position.
layerKinds.LogSoftmax = {
  forward(node, [x]) {
    const [C] = node.shape, each = x.length / C, y = new Float64Array(x.length);
    for (let q = 0; q < each; q++) {
      const { max, sum } = softmaxOf(Float64Array.from({ length: C }, (_, c) => x[c * each + q]));
      for (let c = 0; c < C; c++) y[c * each + q] = x[c * each + q] - max - Math.log(sum);
    }
    return y;
  },
  backward(node, [x], rounded, dy) {
    const p = layerKinds.Softmax.forward(node, [x]), [C] = node.shape, each = x.length / C, dx = new Float64Array(x.length);
    for (let q = 0; q < each; q++) {
      let sum = 0;
      for (let c = 0; c < C; c++) sum += dy[c * each + q];
      for (let c = 0; c < C; c++) dx[c * each + q] = dy[c * each + q] - p[c * each + q] * sum;
    }
    return { dx: [dx], grads: {} };
  },
};

// The channels in the window of channel c, and those whose windows hold it.
const responseWindow = ({ attrs, shape }, c) => [Math.max(0, c - Math.floor(attrs.size / 2)), Math.min(shape[0] - 1, c + Math.floor((attrs.size - 1) / 2))];
const responseReaders = ({ attrs, shape }, c) => [Math.max(0, c - Math.floor((attrs.size - 1) / 2)), Math.min(shape[0] - 1, c + Math.floor(attrs.size / 2))];

// s of value k: k + alpha/size times the squares in its window.
function responseScale(node, x, k) {
  const each = x.length / node.shape[0], [from, to] = responseWindow(node, Math.floor(k / each));
  let sum = 0;
  for (let c = from; c <= to; c++) sum += x[c * each + (k % each)] ** 2;
  return node.attrs.k + (node.attrs.alpha / node.attrs.size) * sum;
}

layerKinds.LocalResponseNorm = {
  forward: (node, [x]) => Float64Array.from(x, (v, k) => v * responseScale(node, x, k) ** -node.attrs.beta),
  backward(node, [x], y, dy) {
    const { alpha, beta, size } = node.attrs, each = x.length / node.shape[0], s = Float64Array.from(x, (_, k) => responseScale(node, x, k));
    const dx = Float64Array.from(x, (v, k) => {
      const [from, to] = responseReaders(node, Math.floor(k / each));
      let sum = 0;
      for (let c = from; c <= to; c++) {
        const at = c * each + (k % each);
        sum += dy[at] * x[at] * s[at] ** (-beta - 1);
      }
      return dy[k] * s[k] ** -beta - ((2 * alpha * beta) / size) * v * sum;
    });
    return { dx: [dx], grads: {} };
  },
};
