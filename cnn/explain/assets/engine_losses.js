// Losses beside softmax with cross-entropy, in float64. `answers` is what the page keeps as p: what the outputs stand for.

const isPlainLoss = (kind) => kind === "Loss";
const ignoredPixel = 255;

const sigmoidOf = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
const softplusOf = (u) => Math.max(u, 0) + Math.log1p(Math.exp(-Math.abs(u)));

// A mean over numbers: the loss of one of them, its slope, and the answer.
function meanLoss(value, slope, answer) {
  return {
    forward: (node, [z], { target }) => Float64Array.of(z.reduce((sum, v, k) => sum + value(v, target[k]), 0) / z.length),
    backward: (node, [z], y, dy, { target }) => ({ dx: [Float64Array.from(z, (v, k) => slope(v, target[k]) / z.length)], grads: {} }),
    answers: (z) => Float64Array.from(z, answer),
  };
}

layerKinds.MSELoss = meanLoss((z, y) => (z - y) ** 2, (z, y) => 2 * (z - y), (z) => z);
layerKinds.L1Loss = meanLoss((z, y) => Math.abs(z - y), (z, y) => Math.sign(z - y), (z) => z);
layerKinds.BCEWithLogitsLoss = meanLoss((z, y) => y * softplusOf(-z) + (1 - y) * softplusOf(z), (z, y) => sigmoidOf(z) - y, sigmoidOf);

// Softmax over the classes at each pixel: column q of z, (K, H, W) laid out plane by plane.
const columnAt = (z, q, pixels) => Float64Array.from({ length: z.length / pixels }, (_, k) => z[k * pixels + q]);

layerKinds.PixelLoss = {
  forward(node, [z], { target }) {
    let loss = 0, count = 0;
    for (let q = 0; q < target.length; q++) {
      if (target[q] === ignoredPixel) continue;
      const column = columnAt(z, q, target.length), { max, sum } = softmaxOf(column);
      loss -= column[target[q]] - max - Math.log(sum);
      count++;
    }
    return Float64Array.of(count ? loss / count : 0);
  },
  backward(node, [z], y, dy, { target }) {
    const dx = layerKinds.PixelLoss.answers(z, target.length), pixels = target.length;
    const count = target.reduce((n, t) => n + (t !== ignoredPixel), 0);
    for (let q = 0; q < pixels; q++) {
      for (let k = 0; k < z.length / pixels; k++) {
        const at = k * pixels + q;
        dx[at] = target[q] === ignoredPixel ? 0 : (dx[at] - (k === target[q] ? 1 : 0)) / count;
      }
    }
    return { dx: [dx], grads: {} };
  },
  answers(z, pixels) {
    const p = new Float64Array(z.length);
    for (let q = 0; q < pixels; q++) softmaxOf(columnAt(z, q, pixels)).p.forEach((v, k) => (p[k * pixels + q] = v));
    return p;
  },
};

layerKinds.Loss.answers = (z) => softmaxOf(z).p;
