// Layers that slide a window, in float64. Loops in the order of the equations; nothing is shared with the kernels.
// Each entry: forward(node, [x], p) -> y and backward(node, [x], y, dy, p, into) -> { dx: [dx], grads: { weight, bias } }.
// `into` = { weight, bias } are arrays to add the gradients to, for a batch; without it they are new.

const layerKinds = {};

// First and last+1 output column j for which 0 <= j * stride + offset < size.
function span(stride, offset, size, count) {
  const first = Math.max(0, Math.ceil(-offset / stride));
  const last = Math.min(count, Math.floor((size - 1 - offset) / stride) + 1);
  return [first, Math.max(first, last)];
}

// Visits every (output row, input row) pair of a convolution's taps: visit(k, c, tap, yRow, xRow, first, last, offset).
function eachTap(weightShape, attrs, inShape, outShape, visit) {
  const [K, Cg, kh, kw] = weightShape;
  const [, H, W] = inShape, [, OH, OW] = outShape;
  const [sh, sw] = attrs.stride, [dh, dw] = attrs.dilation;
  const top = attrs.padding[0][0], left = attrs.padding[1][0];
  const Kg = K / attrs.groups;
  for (let k = 0; k < K; k++) {
    const group = Math.floor(k / Kg);
    for (let c = 0; c < Cg; c++) {
      for (let u = 0; u < kh; u++) {
        const [r0, r1] = span(sh, u * dh - top, H, OH);
        for (let v = 0; v < kw; v++) {
          const offset = v * dw - left;
          const [q0, q1] = span(sw, offset, W, OW);
          const tap = ((k * Cg + c) * kh + u) * kw + v;
          for (let r = r0; r < r1; r++) {
            visit(k, tap, (k * OH + r) * OW, ((group * Cg + c) * H + r * sh + u * dh - top) * W + offset, q0, q1);
          }
        }
      }
    }
  }
}

layerKinds.Conv2d = {
  forward(node, [x], p) {
    const [K, OH, OW] = node.shape, sw = node.attrs.stride[1];
    const y = new Float64Array(K * OH * OW);
    if (isPlain(node.attrs)) plainForward(node, x, p.weight, y);
    else eachTap(node.stored.weight.shape, node.attrs, node.inShapes[0], node.shape, (k, tap, yRow, xRow, q0, q1) => {
      const w = p.weight[tap];
      for (let q = q0; q < q1; q++) y[yRow + q] += w * x[xRow + q * sw];
    });
    if (p.bias) for (let k = 0; k < K; k++) for (let q = 0; q < OH * OW; q++) y[k * OH * OW + q] += p.bias[k];
    return y;
  },
  backward(node, [x], y, dy, p, into, wantsInput = true) {
    const sw = node.attrs.stride[1], plain = isPlain(node.attrs), weight = into?.weight ?? new Float64Array(p.weight.length);
    const dx = plain ? plainBackward(node, x, p.weight, dy, weight, wantsInput) : new Float64Array(x.length);
    if (!plain) eachTap(node.stored.weight.shape, node.attrs, node.inShapes[0], node.shape, (k, tap, yRow, xRow, q0, q1) => {
      const w = p.weight[tap];
      let sum = 0;
      for (let q = q0; q < q1; q++) {
        const g = dy[yRow + q];
        dx[xRow + q * sw] += g * w;
        sum += g * x[xRow + q * sw];
      }
      weight[tap] += sum;
    });
    const grads = { weight };
    if (p.bias) grads.bias = channelSums(dy, node.shape[0], into?.bias);
    return { dx: [dx], grads };
  },
};

// A transposed convolution is a convolution read backwards: x and y swap roles in the same taps.
layerKinds.ConvTranspose2d = {
  forward(node, [x], p) {
    const [K, OH, OW] = node.shape, sw = node.attrs.stride[1];
    const y = new Float64Array(K * OH * OW);
    eachTap(node.stored.weight.shape, node.attrs, node.shape, node.inShapes[0], (k, tap, xRow, yRow, q0, q1) => {
      const w = p.weight[tap];
      for (let q = q0; q < q1; q++) y[yRow + q * sw] += w * x[xRow + q];
    });
    if (p.bias) for (let k = 0; k < K; k++) for (let q = 0; q < OH * OW; q++) y[k * OH * OW + q] += p.bias[k];
    return y;
  },
  backward(node, [x], y, dy, p, into) {
    const sw = node.attrs.stride[1];
    const dx = new Float64Array(x.length), weight = into?.weight ?? new Float64Array(p.weight.length);
    eachTap(node.stored.weight.shape, node.attrs, node.shape, node.inShapes[0], (k, tap, xRow, yRow, q0, q1) => {
      const w = p.weight[tap];
      let sum = 0;
      for (let q = q0; q < q1; q++) {
        const g = dy[yRow + q * sw];
        dx[xRow + q] += g * w;
        sum += g * x[xRow + q];
      }
      weight[tap] += sum;
    });
    const grads = { weight };
    if (p.bias) grads.bias = channelSums(dy, node.shape[0], into?.bias);
    return { dx: [dx], grads };
  },
};

function channelSums(dy, channels, sums = new Float64Array(channels)) {
  const each = dy.length / channels;
  for (let c = 0; c < channels; c++) for (let k = c * each; k < (c + 1) * each; k++) sums[c] += dy[k];
  return sums;
}

// The first of start, start + step, … that is not below 0.
const firstInside = (start, step) => (start >= 0 ? start : start + step * Math.ceil(-start / step));

// The input cells under the window of output o, in row-major order (padding left out).
function windowCells(node, o) {
  const [C, H, W] = node.inShapes[0];
  if (node.kind.startsWith("Global")) return Array.from({ length: H * W }, (_, k) => o * H * W + k);
  const [c, r, q] = unravel(o, node.shape);
  const { kernel_size: [kh, kw], stride: [sh, sw], padding, dilation: [dh, dw] = [1, 1] } = node.attrs;
  const top = r * sh - padding[0][0], left = q * sw - padding[1][0], cells = [];
  for (let i = firstInside(top, dh); i < Math.min(top + kh * dh, H); i += dh)
    for (let j = firstInside(left, dw); j < Math.min(left + kw * dw, W); j += dw) cells.push((c * H + i) * W + j);
  return cells;
}

// The first largest value wins, in row-major order; a NaN beats every number, as in the kernels.
function winnerOf(x, cells) {
  let best = cells[0];
  for (const k of cells) if (x[k] > x[best] || (Number.isNaN(x[k]) && !Number.isNaN(x[best]))) best = k;
  return best;
}

// The winner of every output's window, without a list of cells for each.
function winnersOf(node, x) {
  const winners = new Int32Array(sizeOf(node.shape)), [C, H, W] = node.inShapes[0], global = node.kind.startsWith("Global");
  const [, OH, OW] = global ? [C, 1, 1] : node.shape;
  const { kernel_size: [kh, kw], stride: [sh, sw], padding: [[top], [left]], dilation: [dh, dw] = [1, 1] } = global ? { kernel_size: [H, W], stride: [1, 1], padding: [[0], [0]] } : node.attrs;
  for (let c = 0, o = 0; c < C; c++) {
    for (let r = 0; r < OH; r++) {
      const i0 = firstInside(r * sh - top, dh), i1 = Math.min(r * sh - top + kh * dh, H);
      for (let q = 0; q < OW; q++, o++) {
        const j0 = firstInside(q * sw - left, dw), j1 = Math.min(q * sw - left + kw * dw, W);
        let best = i0 < i1 && j0 < j1 ? (c * H + i0) * W + j0 : -1, most = x[best]; // -1: a window without any pixel
        for (let i = i0; i < i1; i += dh) {
          for (let k = (c * H + i) * W + j0, end = k + j1 - j0; k < end; k += dw) {
            const v = x[k];
            if (v > most || (v !== v && most === most)) (best = k), (most = v);
          }
        }
        winners[o] = best;
      }
    }
  }
  return winners;
}

const maxPool = {
  forward(node, [x]) {
    const winners = winnersOf(node, x), y = new Float64Array(winners.length);
    for (let o = 0; o < y.length; o++) y[o] = winners[o] < 0 ? -Infinity : x[winners[o]];
    return y;
  },
  backward(node, [x], y, dy) {
    const dx = new Float64Array(x.length), winners = winnersOf(node, x);
    for (let o = 0; o < dy.length; o++) if (winners[o] >= 0) dx[winners[o]] += dy[o];
    return { dx: [dx], grads: {} };
  },
  // Which input cell each output took: two runs that differ here have crossed a kink.
  choices: (node, [x]) => winnersOf(node, x),
};

// How many pixels an average divides by: the padded window (clipped at the padded border), or only the real pixels.
function divisorOf(node, o) {
  const [, H, W] = node.inShapes[0];
  if (node.kind.startsWith("Global")) return H * W;
  if (!node.attrs.count_include_pad) return Math.max(1, windowCells(node, o).length);
  const [, r, q] = unravel(o, node.shape);
  const { kernel_size: [kh, kw], stride: [sh, sw], padding: [[top, bottom], [left, right]] } = node.attrs;
  const i = r * sh - top, j = q * sw - left;
  return Math.max(1, (Math.min(i + kh, H + bottom) - i) * (Math.min(j + kw, W + right) - j));
}

const avgPool = {
  forward(node, [x]) {
    return Float64Array.from({ length: sizeOf(node.shape) }, (_, o) => {
      let sum = 0;
      for (const k of windowCells(node, o)) sum += x[k];
      return sum / divisorOf(node, o);
    });
  },
  backward(node, [x], y, dy) {
    const dx = new Float64Array(x.length);
    for (let o = 0; o < dy.length; o++) {
      const share = dy[o] / divisorOf(node, o);
      for (const k of windowCells(node, o)) dx[k] += share;
    }
    return { dx: [dx], grads: {} };
  },
};

Object.assign(layerKinds, { MaxPool2d: maxPool, GlobalMaxPool2d: maxPool, AvgPool2d: avgPool, GlobalAvgPool2d: avgPool });
