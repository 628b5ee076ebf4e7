// Layers without windows, in float64: Linear, activations, BatchNorm, softmax, shape and branch layers, the loss.

layerKinds.Linear = {
  forward(node, [x], p) {
    const [outs] = node.shape, ins = x.length, y = new Float64Array(outs), w = p.weight;
    for (let o = 0; o < outs; o++) {
      let sum = p.bias ? p.bias[o] : 0;
      for (let k = 0, at = o * ins; k < ins; k++, at++) sum += w[at] * x[k];
      y[o] = sum;
    }
    return y;
  },
  backward(node, [x], y, dy, p, into) {
    const ins = x.length, dx = new Float64Array(ins), w = p.weight, weight = into?.weight ?? new Float64Array(w.length);
    for (let o = 0; o < dy.length; o++) {
      const g = dy[o];
      for (let k = 0, at = o * ins; k < ins; k++, at++) {
        dx[k] += g * w[at];
        weight[at] += g * x[k];
      }
    }
    const grads = { weight };
    if (p.bias) grads.bias = channelSums(dy, dy.length, into?.bias);
    return { dx: [dx], grads };
  },
};

// erf to about 1e-15: its Taylor series near 0, a continued fraction of erfc beyond.
function erf(x) {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = x, sum = x;
    for (let n = 1; n < 80; n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  if (a > 6) return Math.sign(x);
  let fraction = a;
  for (let n = 60; n > 0; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / (fraction * Math.sqrt(Math.PI)));
}

const sigmoid = (x) => (x >= 0 ? 1 / (1 + Math.exp(-x)) : Math.exp(x) / (1 + Math.exp(x)));
const normalCdf = (x) => 0.5 * (1 + erf(x / Math.SQRT2));
const normalPdf = (x) => Math.exp(-0.5 * x * x) / Math.sqrt(2 * Math.PI);
const geluInner = (x) => Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3);
const isTanhGelu = (attrs) => attrs.approximate === "tanh";

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
// JSON has no infinite numbers: null stands for the limit that is not there.
const limit = (value, sign) => value ?? sign * Infinity;

// value(x, attrs) and slope(x, attrs) = dy/dx; gated: the slope jumps at 0, so crossing it is a kink.
const pointwise = {
  ReLU: { value: (x) => (x > 0 ? x : 0), slope: (x) => (x > 0 ? 1 : 0), gated: true },
  LeakyReLU: {
    value: (x, a) => (x > 0 ? x : a.negative_slope * x),
    slope: (x, a) => (x > 0 ? 1 : a.negative_slope),
    gated: true,
  },
  Sigmoid: { value: sigmoid, slope: (x) => sigmoid(x) * sigmoid(-x) },
  Tanh: { value: Math.tanh, slope: (x) => 1 - Math.tanh(x) ** 2 },
  SiLU: { value: (x) => x * sigmoid(x), slope: (x) => sigmoid(x) * (1 + x * sigmoid(-x)) },
  GELU: {
    value: (x, a) => (isTanhGelu(a) ? 0.5 * x * (1 + Math.tanh(geluInner(x))) : x * normalCdf(x)),
    slope(x, a) {
      if (!isTanhGelu(a)) return normalCdf(x) + x * normalPdf(x);
      const t = Math.tanh(geluInner(x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
    },
  },
  ELU: {
    value: (x, a) => (x > 0 ? x : a.alpha * Math.expm1(x)),
    slope: (x, a) => (x > 0 ? 1 : a.alpha * Math.exp(x)),
  },
  Softplus: {
    value: (x, a) => (a.beta * x > a.threshold ? x : (Math.max(a.beta * x, 0) + Math.log1p(Math.exp(-Math.abs(a.beta * x)))) / a.beta),
    slope: (x, a) => (a.beta * x > a.threshold ? 1 : sigmoid(a.beta * x)),
  },
  ReLU6: { value: (x) => clamp(x, 0, 6), slope: (x) => (x > 0 && x < 6 ? 1 : 0) },
  Hardtanh: {
    value: (x, a) => clamp(x, limit(a.min_val, -1), limit(a.max_val, 1)),
    slope: (x, a) => (x > limit(a.min_val, -1) && x < limit(a.max_val, 1) ? 1 : 0),
  },
  Hardsigmoid: { value: (x) => clamp(x / 6 + 0.5, 0, 1), slope: (x) => (x > -3 && x < 3 ? 1 / 6 : 0) },
  Hardswish: { value: (x) => x * clamp(x / 6 + 0.5, 0, 1), slope: (x) => (x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5) },
  // In inference dropout passes everything; its mask of the training step is not part of the page.
  Dropout: { value: (x) => x, slope: () => 1 },
  Flatten: { value: (x) => x, slope: () => 1 },
  Unflatten: { value: (x) => x, slope: () => 1 },
  Scale: { value: (x, a) => a.factor * x, slope: (x, a) => a.factor },
};

for (const [kind, { value, slope, gated }] of Object.entries(pointwise)) {
  layerKinds[kind] = {
    forward(node, [x]) {
      const y = new Float64Array(x.length);
      for (let k = 0; k < y.length; k++) y[k] = value(x[k], node.attrs);
      return y;
    },
    backward(node, [x], y, dy) {
      const dx = new Float64Array(x.length);
      for (let k = 0; k < dx.length; k++) dx[k] = dy[k] * slope(x[k], node.attrs);
      return { dx: [dx], grads: {} };
    },
  };
  if (gated) layerKinds[kind].choices = (node, [x]) => Int32Array.from(x, (v) => (v > 0 ? 1 : 0));
}

// mean and 1/sqrt(var + eps) of every channel: the running ones, or in training those of the images xs.
function batchNormStatistics(node, xs, p, training = node.attrs.training) {
  const channels = node.shape[0], each = xs[0].length / channels, count = each * xs.length;
  const mean = new Float64Array(channels), rstd = new Float64Array(channels), variance = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    let m = 0, v = 0;
    if (training) {
      for (const x of xs) for (let k = c * each; k < (c + 1) * each; k++) m += x[k];
      m /= count;
      for (const x of xs) for (let k = c * each; k < (c + 1) * each; k++) v += (x[k] - m) ** 2;
      v /= count;
    } else {
      m = p.running_mean[c];
      v = p.running_var[c];
    }
    mean[c] = m;
    variance[c] = v;
    rstd[c] = 1 / Math.sqrt(v + node.attrs.eps);
  }
  return { mean, variance, rstd, each, count };
}

// Per channel: sum(dy) and sum(dy * xhat) over all images, the two sums that the backward pass needs.
function batchNormSums(xs, dys, { mean, rstd, each }, into) {
  const plain = into?.bias ?? new Float64Array(mean.length), weighted = into?.weight ?? new Float64Array(mean.length);
  xs.forEach((x, n) => {
    const dy = dys[n];
    for (let c = 0; c < mean.length; c++) {
      for (let k = c * each; k < (c + 1) * each; k++) {
        plain[c] += dy[k];
        weighted[c] += dy[k] * (x[k] - mean[c]) * rstd[c];
      }
    }
  });
  return { plain, weighted };
}

const batchNorm = {
  forward: (node, [x], p) => batchNorm.forwardBatch(node, [x], p, node.attrs.training).ys[0],
  backward(node, [x], y, dy, p) {
    const { dxs, grads } = batchNorm.backwardBatch(node, [x], [dy], p, node.attrs.training);
    return { dx: dxs, grads };
  },
  // All images at once: in training they share mean and variance.
  forwardBatch(node, xs, p, training) {
    const s = batchNormStatistics(node, xs, p, training), channels = s.mean.length;
    const ys = xs.map((x) => {
      const y = new Float64Array(x.length);
      for (let c = 0; c < channels; c++) {
        const scale = s.rstd[c] * (p.weight ? p.weight[c] : 1), shift = p.bias ? p.bias[c] : 0;
        for (let k = c * s.each; k < (c + 1) * s.each; k++) y[k] = (x[k] - s.mean[c]) * scale + shift;
      }
      return y;
    });
    return { ys, statistics: s };
  },
  backwardBatch(node, xs, dys, p, training, into) {
    const s = batchNormStatistics(node, xs, p, training), sums = batchNormSums(xs, dys, s), channels = s.mean.length;
    const dxs = xs.map((x, n) => {
      const dx = new Float64Array(x.length), dy = dys[n];
      for (let c = 0; c < channels; c++) {
        const factor = (p.weight ? p.weight[c] : 1) * s.rstd[c], plain = training ? sums.plain[c] / s.count : 0;
        const weighted = training ? (sums.weighted[c] / s.count) * s.rstd[c] : 0;
        for (let k = c * s.each; k < (c + 1) * s.each; k++) dx[k] = factor * (dy[k] - plain - (x[k] - s.mean[c]) * weighted);
      }
      return dx;
    });
    const grads = {};
    if (p.weight) grads.weight = addInto(into?.weight, sums.weighted);
    if (p.bias) grads.bias = addInto(into?.bias, sums.plain);
    return { dxs, grads };
  },
};

function addInto(total, values) {
  if (!total) return values;
  for (let k = 0; k < values.length; k++) total[k] += values[k];
  return total;
}

layerKinds.BatchNorm2d = layerKinds.BatchNorm1d = batchNorm;

function softmaxOf(z) {
  let max = -Infinity, sum = 0;
  for (const v of z) max = Math.max(max, v);
  const p = Float64Array.from(z, (v) => Math.exp(v - max));
  for (const v of p) sum += v;
  return { p: p.map((v) => v / sum), max, sum };
}

// Softmax over channels, at each position of a map (a vector has one position).
layerKinds.Softmax = {
  forward(node, [x]) {
    const [C] = node.shape, each = x.length / C, y = new Float64Array(x.length);
    for (let q = 0; q < each; q++) {
      const { p } = softmaxOf(Float64Array.from({ length: C }, (_, c) => x[c * each + q]));
      for (let c = 0; c < C; c++) y[c * each + q] = p[c];
    }
    return y;
  },
  // From x and not from y, which may have been rounded.
  backward(node, [x], rounded, dy) {
    const [C] = node.shape, each = x.length / C, dx = new Float64Array(x.length), y = layerKinds.Softmax.forward(node, [x]);
    for (let q = 0; q < each; q++) {
      let mixed = 0;
      for (let c = 0; c < C; c++) mixed += dy[c * each + q] * y[c * each + q];
      for (let c = 0; c < C; c++) dx[c * each + q] = y[c * each + q] * (dy[c * each + q] - mixed);
    }
    return { dx: [dx], grads: {} };
  },
};

layerKinds.Add = {
  forward: (node, xs) => Float64Array.from(xs[0], (_, k) => xs.reduce((sum, x) => sum + x[k], 0)),
  backward: (node, xs, y, dy) => ({ dx: xs.map(() => Float64Array.from(dy)), grads: {} }),
};

// Which number of a factor meets number k of the product: an axis of size 1 is repeated.
function factorIndex(k, shape, factorShape) {
  let index = 0, rest = k, step = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (factorShape[axis] > 1) index += (rest % shape[axis]) * step;
    rest = Math.floor(rest / shape[axis]);
    step *= factorShape[axis];
  }
  return index;
}

layerKinds.Mul = {
  forward(node, [a, b]) {
    const [at, bt] = node.inShapes;
    return Float64Array.from({ length: sizeOf(node.shape) }, (_, k) =>
      a[factorIndex(k, node.shape, at)] * b[factorIndex(k, node.shape, bt)]);
  },
  backward(node, xs, y, dy) {
    const dx = node.inShapes.map((shape) => new Float64Array(sizeOf(shape)));
    for (let k = 0; k < dy.length; k++) {
      const [i, j] = node.inShapes.map((shape) => factorIndex(k, node.shape, shape));
      dx[0][i] += dy[k] * xs[1][j];
      dx[1][j] += dy[k] * xs[0][i];
    }
    return { dx, grads: {} };
  },
};

layerKinds.Concat = {
  forward(node, xs) {
    const y = new Float64Array(sizeOf(node.shape));
    let offset = 0;
    for (const x of xs) {
      y.set(x, offset);
      offset += x.length;
    }
    return y;
  },
  backward(node, xs, y, dy) {
    let offset = 0;
    const dx = xs.map((x) => Float64Array.from(dy.subarray(offset, (offset += x.length))));
    return { dx, grads: {} };
  },
};

// L = -sum_k y_k log p_k with p = softmax(z): dL/dz = p * sum(y) - y; the mean over a batch divides it by N.
layerKinds.Loss = {
  forward(node, [z], { target }) {
    const { max, sum } = softmaxOf(z);
    let loss = 0;
    for (let k = 0; k < z.length; k++) if (target[k]) loss -= target[k] * (z[k] - max - Math.log(sum));
    return Float64Array.of(loss);
  },
  backward(node, [z], y, dy, { target }) {
    const { p } = softmaxOf(z), total = target.reduce((a, b) => a + b, 0);
    return { dx: [p.map((v, k) => v * total - target[k])], grads: {} };
  },
};
