// Convolutions of stride 1 and dilation 1, three times as fast as tap by tap: the image gets its border of zeros once, and
// a row of outputs takes all kw taps of a kernel row together. Training in the page spends its time here.

const isPlain = ({ stride, dilation }) => stride[0] === 1 && stride[1] === 1 && dilation[0] === 1 && dilation[1] === 1;

// x with its border of zeros, [C, H + top + bottom, W + left + right].
function withBorder(x, [C, H, W], [[top, bottom], [left, right]]) {
  const wide = W + left + right, high = H + top + bottom;
  if (wide === W && high === H) return { x, wide, high };
  const out = new Float64Array(C * high * wide);
  for (let c = 0; c < C; c++)
    for (let i = 0; i < H; i++) out.set(x.subarray((c * H + i) * W, (c * H + i + 1) * W), (c * high + i + top) * wide + left);
  return { x: out, wide, high };
}

function withoutBorder(dx, [C, H, W], [[top], [left]], wide, high) {
  if (wide === W && high === H) return dx;
  const out = new Float64Array(C * H * W);
  for (let c = 0; c < C; c++)
    for (let i = 0; i < H; i++) out.set(dx.subarray((c * high + i + top) * wide + left, (c * high + i + top) * wide + left + W), (c * H + i) * W);
  return out;
}

// y[q] += sum over v of w[v] * x[q + v]
function rowForward(y, yAt, n, x, xAt, w, wAt, kw) {
  if (kw === 5) {
    const a = w[wAt], b = w[wAt + 1], c = w[wAt + 2], d = w[wAt + 3], e = w[wAt + 4];
    let x0 = x[xAt], x1 = x[xAt + 1], x2 = x[xAt + 2], x3 = x[xAt + 3];
    for (let q = 0; q < n; q++) {
      const x4 = x[xAt + q + 4];
      y[yAt + q] += a * x0 + b * x1 + c * x2 + d * x3 + e * x4;
      (x0 = x1), (x1 = x2), (x2 = x3), (x3 = x4);
    }
  } else if (kw === 3) {
    const a = w[wAt], b = w[wAt + 1], c = w[wAt + 2];
    let x0 = x[xAt], x1 = x[xAt + 1];
    for (let q = 0; q < n; q++) {
      const x2 = x[xAt + q + 2];
      y[yAt + q] += a * x0 + b * x1 + c * x2;
      (x0 = x1), (x1 = x2);
    }
  } else {
    for (let v = 0; v < kw; v++) {
      const a = w[wAt + v];
      for (let q = 0; q < n; q++) y[yAt + q] += a * x[xAt + q + v];
    }
  }
}

// dw[v] += sum over q of dy[q] * x[q + v]
function rowWeights(dw, wAt, kw, dy, yAt, n, x, xAt) {
  if (kw === 5) {
    let a = 0, b = 0, c = 0, d = 0, e = 0, x0 = x[xAt], x1 = x[xAt + 1], x2 = x[xAt + 2], x3 = x[xAt + 3];
    for (let q = 0; q < n; q++) {
      const g = dy[yAt + q], x4 = x[xAt + q + 4];
      (a += g * x0), (b += g * x1), (c += g * x2), (d += g * x3), (e += g * x4);
      (x0 = x1), (x1 = x2), (x2 = x3), (x3 = x4);
    }
    (dw[wAt] += a), (dw[wAt + 1] += b), (dw[wAt + 2] += c), (dw[wAt + 3] += d), (dw[wAt + 4] += e);
    return;
  }
  for (let v = 0; v < kw; v++) {
    let sum = 0;
    for (let q = 0; q < n; q++) sum += dy[yAt + q] * x[xAt + q + v];
    dw[wAt + v] += sum;
  }
}

// dx[q + v] += w[v] * dy[q]: read as dx[j] += sum over v of w[v] * dy[j - v], with a border of zeros around dy's row.
function rowInput(dx, xAt, w, wAt, kw, dy, yAt, n) {
  if (kw === 5) {
    const a = w[wAt], b = w[wAt + 1], c = w[wAt + 2], d = w[wAt + 3], e = w[wAt + 4];
    let g1 = 0, g2 = 0, g3 = 0, g4 = 0;
    for (let j = 0; j < n + 4; j++) {
      const g0 = j < n ? dy[yAt + j] : 0;
      dx[xAt + j] += a * g0 + b * g1 + c * g2 + d * g3 + e * g4;
      (g4 = g3), (g3 = g2), (g2 = g1), (g1 = g0);
    }
    return;
  }
  for (let v = 0; v < kw; v++) {
    const a = w[wAt + v];
    for (let q = 0; q < n; q++) dx[xAt + q + v] += a * dy[yAt + q];
  }
}

// Visits every pair of rows: visit(first of the output row, first of the input row, first of the kernel row).
function eachRow([K, Cg, kh, kw], groups, [, OH, OW], wide, high, visit) {
  for (let k = 0; k < K; k++) {
    const group = Math.floor(k / (K / groups));
    for (let c = 0; c < Cg; c++)
      for (let u = 0; u < kh; u++)
        for (let r = 0; r < OH; r++) visit((k * OH + r) * OW, ((group * Cg + c) * high + r + u) * wide, ((k * Cg + c) * kh + u) * kw);
  }
}

function plainForward(node, x, w, y) {
  const shape = node.stored.weight.shape, bordered = withBorder(x, node.inShapes[0], node.attrs.padding), n = node.shape[2];
  eachRow(shape, node.attrs.groups, node.shape, bordered.wide, bordered.high, (yAt, xAt, wAt) => rowForward(y, yAt, n, bordered.x, xAt, w, wAt, shape[3]));
}

// Returns dx, or null where nobody asks for it, and adds to dw.
function plainBackward(node, x, w, dy, dw, wantsInput) {
  const shape = node.stored.weight.shape, { x: xs, wide, high } = withBorder(x, node.inShapes[0], node.attrs.padding), n = node.shape[2];
  eachRow(shape, node.attrs.groups, node.shape, wide, high, (yAt, xAt, wAt) => rowWeights(dw, wAt, shape[3], dy, yAt, n, xs, xAt));
  if (!wantsInput) return null;
  const dx = new Float64Array(xs.length);
  eachRow(shape, node.attrs.groups, node.shape, wide, high, (yAt, xAt, wAt) => rowInput(dx, xAt, w, wAt, shape[3], dy, yAt, n));
  return withoutBorder(dx, node.inShapes[0], node.attrs.padding, wide, high);
}
