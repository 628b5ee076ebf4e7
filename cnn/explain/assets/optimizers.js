// What turns gradients into new weights: PyTorch's formulas, as in cnn/reference/update.py.
// settings = { method: "sgd" | "adam", lr, momentum, nesterov, decay, beta1, beta2, eps }; slots are arrays like w.

const slotNames = { sgd: ["velocity"], adam: ["mean", "square"] };

// Weight decay leaves biases, the scales and shifts of normalisation and the slopes of PReLU alone.
const decaysOf = (node, name) => name === "weight" && !isNorm(node) && node.kind !== "PReLU";

const newSlots = (method, size) => Object.fromEntries(slotNames[method].map((name) => [name, new Float64Array(size)]));

// Updates one parameter in place; t counts steps from 1.
function updateParameter(w, g, slots, settings, decays, t) {
  const { lr, momentum, nesterov, beta1, beta2, eps } = settings, decay = decays ? settings.decay : 0;
  if (settings.method === "adam") {
    const { mean, square } = slots, unbias = 1 - beta1 ** t, unsquare = 1 - beta2 ** t;
    for (let k = 0; k < w.length; k++) {
      const d = g[k] + decay * w[k];
      mean[k] = beta1 * mean[k] + (1 - beta1) * d;
      square[k] = beta2 * square[k] + (1 - beta2) * d * d;
      w[k] -= (lr * (mean[k] / unbias)) / (Math.sqrt(square[k] / unsquare) + eps);
    }
    return;
  }
  const { velocity } = slots;
  for (let k = 0; k < w.length; k++) {
    const d = g[k] + decay * w[k];
    velocity[k] = momentum * velocity[k] + d;
    w[k] -= lr * (nesterov ? d + momentum * velocity[k] : velocity[k]);
  }
}

// The same for one weight, every intermediate number named: [[name, value], …], the new weight last.
function updateTerms(w, g, slots, settings, decays, t) {
  const { lr, momentum, nesterov, beta1, beta2, eps } = settings, decay = decays ? settings.decay : 0, d = g + decay * w;
  const terms = [["w", w], ["g = ∂L/∂w", g]];
  if (decay) terms.push(["λ·w", decay * w], ["d = g + λ·w", d]);
  const name = decay ? "d" : "g";
  if (settings.method === "adam") {
    const mean = beta1 * slots.mean + (1 - beta1) * d, square = beta2 * slots.square + (1 - beta2) * d * d;
    const meanHat = mean / (1 - beta1 ** t), squareHat = square / (1 - beta2 ** t), step = (lr * meanHat) / (Math.sqrt(squareHat) + eps);
    return [...terms, [`m = β₁·m + (1 − β₁)·${name}`, mean], [`v = β₂·v + (1 − β₂)·${name}²`, square], [`m̂ = m/(1 − β₁^${t})`, meanHat],
      [`v̂ = v/(1 − β₂^${t})`, squareHat], ["lr·m̂/(√v̂ + ε)", step], ["w − lr·m̂/(√v̂ + ε)", w - step]];
  }
  if (!momentum) return [...terms, [`lr·${name}`, lr * d], [`w − lr·${name}`, w - lr * d]];
  const velocity = momentum * slots.velocity + d, step = nesterov ? d + momentum * velocity : velocity;
  terms.push(["μ·v", momentum * slots.velocity], [`v = μ·v + ${name}`, velocity]);
  if (nesterov) terms.push([`s = ${name} + μ·v`, step]);
  const last = nesterov ? "s" : "v";
  return [...terms, [`lr·${last}`, lr * step], [`w − lr·${last}`, w - lr * step]];
}
