// "How this number was made": explain(cell) takes any cell apart into the terms of its equation.
// A factor is { symbol, value, cell? }; a term is { factors, value }. The answer of explain():
//   { form: "sum" | "max" | "copy" | "function", equation, terms, total, steps?, note? }
// equation names an entry of the derivations (see cnn/explain/derivations.py), note an entry of the texts.

const symbolOf = (name, position) => `${name}[${position.join(", ")}]`;

function factor(node, tensor, index, symbol) {
  const c = cell(node, tensor, index);
  return { symbol: symbolOf(symbol, positionOf(c)), value: valueAt(c), cell: c };
}

const constant = (symbol, value) => ({ symbol, value });
const product = (...factors) => ({ factors, value: factors.reduce((v, f) => v * f.value, 1) });
const total = (terms) => terms.reduce((sum, t) => sum + t.value, 0);
const sumOf = (equation, terms, extra = {}) => ({
  form: "sum", equation, terms, total: total(terms), ...extra, note: terms.length ? extra.note : "note.unread",
});

// The cells a layer reads and writes: slot k of its input, its output, the gradient arriving from above.
const inputAt = (node, index, slot = 0) => factor(nodes[node.inputs[slot]], "y", index, "x");
const gradAt = (node, index) => factor(node, "dy", index, "dy");
const outputAt = (node, index) => factor(node, "y", index, "y");
const weightAt = (node, index) => factor(node, "weight", index, scaleLetter(node));
const biasAt = (node, index) => factor(node, "bias", index, isNorm(node) ? "β" : "b");

// --- convolution: the same taps read in three directions ------------------------------------------------------------

// All (output, input, weight) triples of a convolution that satisfy `keep`, found without scanning every triple:
// fixed names what is known ({ o } or { x } or { w }), the rest is enumerated.
function convTriples(attrs, weightShape, inShape, outShape, fixed) {
  const [K, Cg, kh, kw] = weightShape, [, H, W] = inShape, [, OH, OW] = outShape;
  const [sh, sw] = attrs.stride, [dh, dw] = attrs.dilation, top = attrs.padding[0][0], left = attrs.padding[1][0];
  const Kg = K / attrs.groups, triples = [];
  const add = (k, c, u, v, r, q) => {
    const i = r * sh + u * dh - top, j = q * sw + v * dw - left;
    if (r < 0 || r >= OH || q < 0 || q >= OW || i < 0 || i >= H || j < 0 || j >= W) return;
    const channel = Math.floor(k / Kg) * Cg + c;
    triples.push({ o: (k * OH + r) * OW + q, x: (channel * H + i) * W + j, w: ((k * Cg + c) * kh + u) * kw + v });
  };
  if ("o" in fixed) {
    const [k, r, q] = unravel(fixed.o, outShape);
    for (let c = 0; c < Cg; c++) for (let u = 0; u < kh; u++) for (let v = 0; v < kw; v++) add(k, c, u, v, r, q);
  } else if ("w" in fixed) {
    const [k, c, u, v] = unravel(fixed.w, weightShape);
    for (let r = 0; r < OH; r++) for (let q = 0; q < OW; q++) add(k, c, u, v, r, q);
  } else {
    const [channel, i, j] = unravel(fixed.x, inShape), group = Math.floor(channel / Cg);
    for (let k = group * Kg; k < (group + 1) * Kg; k++)
      for (let u = 0; u < kh; u++) for (let v = 0; v < kw; v++) {
        const r = (i + top - u * dh) / sh, q = (j + left - v * dw) / sw;
        if (Number.isInteger(r) && Number.isInteger(q)) add(k, channel % Cg, u, v, r, q);
      }
  }
  return triples;
}

// Convolution and transposed convolution share the taps; in the latter the "output" side of a tap is its input.
function convRules(transposed) {
  const triples = (node, fixed) =>
    transposed
      ? convTriples(node.attrs, node.stored.weight.shape, node.shape, node.inShapes[0], fixed)
      : convTriples(node.attrs, node.stored.weight.shape, node.inShapes[0], node.shape, fixed);
  const [ySide, xSide] = transposed ? ["x", "o"] : ["o", "x"];
  return {
    y(node, index) {
      const list = triples(node, { [ySide]: index });
      const terms = list.map((t) => product(inputAt(node, t[xSide]), weightAt(node, t.w)));
      const each = sizeOf(node.shape) / node.shape[0];
      if (node.stored.bias) terms.push(product(biasAt(node, Math.floor(index / each))));
      return sumOf("forward", terms);
    },
    dx: (node, index) =>
      sumOf("dx", triples(node, { [xSide]: index }).map((t) => product(gradAt(node, t[ySide]), weightAt(node, t.w)))),
    weight: (node, index) =>
      sumOf("dweight", triples(node, { w: index }).map((t) => product(gradAt(node, t[ySide]), inputAt(node, t[xSide])))),
    bias: (node, index) => sumOf("dbias", channelCells(node.shape, index).map((k) => product(gradAt(node, k)))),
  };
}

function channelCells(shape, channel) {
  const each = sizeOf(shape) / shape[0];
  return Array.from({ length: each }, (_, k) => channel * each + k);
}

// --- pools --------------------------------------------------------------------------------------------------------

// The outputs whose window holds input cell x.
function windowsOver(node, index) {
  const [c, i, j] = unravel(index, node.inShapes[0]);
  if (node.kind.startsWith("Global")) return [c];
  const [, OH, OW] = node.shape;
  const { kernel_size: [kh, kw], stride: [sh, sw], padding, dilation: [dh, dw] = [1, 1] } = node.attrs;
  const found = [], top = padding[0][0], left = padding[1][0];
  const covers = (at, start, size, step) => (at - start) % step === 0 && at - start < size * step;
  for (let r = Math.max(0, Math.ceil((i + top - (kh - 1) * dh) / sh)); r <= Math.min(OH - 1, Math.floor((i + top) / sh)); r++)
    for (let q = Math.max(0, Math.ceil((j + left - (kw - 1) * dw) / sw)); q <= Math.min(OW - 1, Math.floor((j + left) / sw)); q++)
      if (covers(i + top, r * sh, kh, dh) && covers(j + left, q * sw, kw, dw)) found.push((c * OH + r) * OW + q);
  return found;
}

const maxPoolRules = {
  y(node, index) {
    const x = inputsOf(node)[0], cells = windowCells(node, index), winner = winnerOf(x, cells);
    const ties = cells.filter((k) => x[k] === x[winner]).length;
    const terms = cells.map((k) => ({ ...product(inputAt(node, k)), wins: k === winner }));
    return { form: "max", equation: "forward", terms, total: cells.length ? x[winner] : -Infinity, note: cells.length ? (ties > 1 ? "note.ties" : null) : "note.nopixel", count: ties };
  },
  dx(node, index) {
    const x = inputsOf(node)[0];
    const terms = windowsOver(node, index).map((o) => {
      const wins = winnerOf(x, windowCells(node, o)) === index;
      return { ...product(gradAt(node, o), constant(wins ? "won" : "lost", wins ? 1 : 0)), wins };
    });
    return sumOf("dx", terms, { note: terms.some((t) => t.wins) ? null : "note.lost" });
  },
};

const avgPoolRules = {
  y(node, index) {
    const share = divisorOf(node, index);
    const terms = windowCells(node, index).map((k) => product(inputAt(node, k), constant(`1/${share}`, 1 / share)));
    return sumOf("forward", terms);
  },
  dx: (node, index) =>
    sumOf("dx", windowsOver(node, index).map((o) => {
      const share = divisorOf(node, o);
      return product(gradAt(node, o), constant(`1/${share}`, 1 / share));
    })),
};

// --- pointwise ------------------------------------------------------------------------------------------------------

const pointwiseSteps = {
  Sigmoid: (x) => [["exp(−x)", Math.exp(-x)], ["1 + exp(−x)", 1 + Math.exp(-x)]],
  Tanh: (x) => [["exp(x)", Math.exp(x)], ["exp(−x)", Math.exp(-x)]],
  SiLU: (x) => [["σ(x)", sigmoid(x)]],
  GELU: (x, a) => (isTanhGelu(a) ? [["√(2/π)·(x + 0.044715·x³)", geluInner(x)]] : [["Φ(x)", normalCdf(x)], ["φ(x)", normalPdf(x)]]),
};

const maskAt = (node, index) => factor(node, "mask", index, "mask");

function pointwiseRules(kind) {
  const { value, slope, gated } = pointwise[kind];
  const copies = kind === "Flatten" || kind === "Unflatten" || kind === "Dropout";
  return {
    y(node, index) {
      const x = inputAt(node, index), y = value(x.value, node.attrs);
      if (node.tensors.mask) return sumOf("forward", [product(x, maskAt(node, index))], { note: "note.mask" });
      const steps = (pointwiseSteps[kind]?.(x.value, node.attrs) ?? []).map(([symbol, v]) => constant(symbol, v));
      if (copies) return { form: "copy", equation: "forward", terms: [product(x)], total: y, note: `note.${kind.replace("Unf", "F")}` };
      if (gated) {
        const open = x.value > 0;
        const terms = [product(x, constant(open ? "gate open" : "gate closed", slope(x.value, node.attrs)))];
        return { form: "sum", equation: "forward", terms, total: y, note: open ? "note.open" : "note.closed" };
      }
      if (kind === "Scale") return sumOf("forward", [product(constant("factor", node.attrs.factor), x)]);
      return { form: "function", equation: "forward", terms: [product(x)], steps, total: y };
    },
    dx(node, index) {
      if (node.tensors.mask) return sumOf("dx", [product(gradAt(node, index), maskAt(node, index))], { note: "note.mask" });
      if (copies) return { form: "copy", equation: "dx", terms: [product(gradAt(node, index))], total: gradAt(node, index).value };
      const x = inputAt(node, index);
      return sumOf("dx", [product(gradAt(node, index), constant("∂y/∂x", slope(x.value, node.attrs)))], {
        steps: [x, ...(pointwiseSteps[kind]?.(x.value, node.attrs) ?? []).map(([symbol, v]) => constant(symbol, v))],
        note: gated ? (x.value > 0 ? "note.open" : "note.closed") : null,
      });
    },
  };
}

// --- BatchNorm ------------------------------------------------------------------------------------------------------

function batchNormParts(node, index, training = node.attrs.training) {
  const x = inputsOf(node)[0], p = parametersOf(node), s = batchNormStatistics(node, batchOf(nodes[node.inputs[0]], "y"), p, training);
  const c = Math.floor(index / s.each), xhat = (k) => (x[k] - s.mean[c]) * s.rstd[c];
  const gamma = p.weight ? [weightAt(node, c)] : [], rstd = constant("1/√(σ² + ε)", s.rstd[c]);
  return { x, p, s, c, xhat, gamma, rstd };
}

// dx = γ/√(σ²+ε) · (dy − mean(dy) − x̂ · mean(dy·x̂)); the last two exist because mean and variance depend on x.
function batchNormTerms(node, index, training) {
  const { s, c, xhat, gamma, rstd } = batchNormParts(node, index, training);
  const terms = [product(gradAt(node, index), ...gamma, rstd)];
  if (!training) return terms;
  const sums = batchNormSums(batchOf(nodes[node.inputs[0]], "y"), batchOf(node, "dy"), s);
  terms.push(product(constant("−mean(dy)", -sums.plain[c] / s.count), ...gamma, rstd));
  terms.push(product(constant("x̂", xhat(index)), constant("−mean(dy·x̂)", -sums.weighted[c] / s.count), ...gamma, rstd));
  return terms;
}

const batchNormRules = {
  y(node, index) {
    const { s, c, xhat, gamma, rstd, p } = batchNormParts(node, index);
    const mean = node.attrs.training ? constant("μ", s.mean[c]) : factor(node, "running_mean", c, "μ");
    const variance = node.attrs.training ? constant("σ²", s.variance[c]) : factor(node, "running_var", c, "σ²");
    const terms = [product(constant("x̂", xhat(index)), ...gamma)];
    if (p.bias) terms.push(product(biasAt(node, c)));
    return sumOf("forward", terms, { steps: [inputAt(node, index), mean, variance, rstd], note: bnNote(node) });
  },
  dx(node, index) {
    const terms = batchNormTerms(node, index, node.attrs.training);
    const whatIf = node.attrs.training ? null : batchNormTerms(node, index, true);
    return sumOf("dx", terms, { note: bnNote(node), whatIf });
  },
  weight(node, c) {
    const { xhat } = batchNormParts(node, c * (sizeOf(node.shape) / node.shape[0]));
    const terms = channelCells(node.shape, c).map((k) => product(gradAt(node, k), constant("x̂", xhat(k))));
    return sumOf("dweight", terms, { note: bnNote(node) });
  },
  bias: (node, c) => sumOf("dbias", channelCells(node.shape, c).map((k) => product(gradAt(node, k)))),
};
const bnNote = (node) => (node.attrs.training ? "note.bn.training" : "note.bn.inference");

// --- the rest -------------------------------------------------------------------------------------------------------

const linearRules = {
  y(node, o) {
    const ins = sizeOf(node.inShapes[0]);
    const terms = Array.from({ length: ins }, (_, k) => product(inputAt(node, k), weightAt(node, o * ins + k)));
    if (node.stored.bias) terms.push(product(biasAt(node, o)));
    return sumOf("forward", terms);
  },
  dx(node, k) {
    const ins = sizeOf(node.inShapes[0]);
    const terms = Array.from({ length: node.shape[0] }, (_, o) => product(gradAt(node, o), weightAt(node, o * ins + k)));
    return sumOf("dx", terms);
  },
  weight(node, index) {
    const ins = sizeOf(node.inShapes[0]);
    return sumOf("dweight", [product(gradAt(node, Math.floor(index / ins)), inputAt(node, index % ins))]);
  },
  bias: (node, o) => sumOf("dbias", [product(gradAt(node, o))]),
};

const addRules = {
  y: (node, index) => sumOf("forward", node.inputs.map((_, slot) => product(inputAt(node, index, slot)))),
  dx: (node, index) => ({ form: "copy", equation: "dx", terms: [product(gradAt(node, index))], total: gradAt(node, index).value }),
};

const mulRules = {
  y(node, index) {
    const at = node.inShapes.map((shape) => factorIndex(index, node.shape, shape));
    return sumOf("forward", [product(inputAt(node, at[0], 0), inputAt(node, at[1], 1))]);
  },
  dx(node, index, slot) {
    const terms = [], shape = node.inShapes[slot], other = node.inShapes[1 - slot];
    for (let k = 0; k < sizeOf(node.shape); k++) {
      if (factorIndex(k, node.shape, shape) !== index) continue;
      terms.push(product(gradAt(node, k), inputAt(node, factorIndex(k, node.shape, other), 1 - slot)));
    }
    return sumOf("dx", terms);
  },
};

// Where slot `slot` begins in the concatenated output.
const concatOffset = (node, slot) => node.inShapes.slice(0, slot).reduce((sum, shape) => sum + sizeOf(shape), 0);

const concatRules = {
  y(node, index) {
    let slot = node.inputs.length - 1;
    while (concatOffset(node, slot) > index) slot--;
    const x = inputAt(node, index - concatOffset(node, slot), slot);
    return { form: "copy", equation: "forward", terms: [product(x)], total: x.value };
  },
  dx(node, index, slot) {
    const dy = gradAt(node, index + concatOffset(node, slot));
    return { form: "copy", equation: "dx", terms: [product(dy)], total: dy.value };
  },
};

const softmaxRules = {
  y(node, index) {
    const [C] = node.shape, each = sizeOf(node.shape) / C, q = index % each;
    const column = Array.from({ length: C }, (_, c) => inputAt(node, c * each + q));
    const max = Math.max(...column.map((f) => f.value));
    const sum = column.reduce((s, f) => s + Math.exp(f.value - max), 0), x = inputAt(node, index);
    return sumOf("forward", [product(constant("exp(x − max)", Math.exp(x.value - max)), constant("1/Σ", 1 / sum))], {
      steps: [x, constant("max", max), constant("x − max", x.value - max), constant("Σ exp(x − max)", sum), ...column],
    });
  },
  dx(node, index) {
    const [C] = node.shape, each = sizeOf(node.shape) / C, q = index % each;
    const column = softmaxOf(Float64Array.from({ length: C }, (_, c) => inputAt(node, c * each + q).value)).p;
    const own = { ...outputAt(node, index), value: column[Math.floor(index / each)] };
    const terms = Array.from({ length: C }, (_, c) => {
      const k = c * each + q, y = column[c];
      return product(gradAt(node, k), constant(k === index ? "S·(1 − S)" : "−S·S′", own.value * ((k === index ? 1 : 0) - y)));
    });
    return sumOf("dx", terms, { steps: [own] });
  },
};

const lossRules = {
  y(node) {
    if (isBatch) return sumOf("forward", perImage((n) => layerKinds.Loss.forward(node, [inputsOf(node)[0]], { target: node.tensors.target.data })[0], "L"), { note: "note.mean" });
    const z = inputsOf(node)[0], { max, sum } = softmaxOf(z), target = node.tensors.target.data, terms = [];
    for (let k = 0; k < z.length; k++) {
      if (target[k]) terms.push(product(factor(node, "target", k, "y"), { symbol: `−log p[${k}]`, value: Math.log(sum) - (z[k] - max), cell: cell(node, "p", k) }));
    }
    return sumOf("forward", terms);
  },
  p(node, index) {
    const z = inputsOf(node)[0], { max, sum } = softmaxOf(z), own = inputAt(node, index);
    return sumOf("softmax", [product(constant("exp(z − max)", Math.exp(own.value - max)), constant("1/Σ", 1 / sum))], {
      steps: [own, constant("max z", max), constant("z − max", own.value - max), constant("Σ exp(z − max)", sum)],
    });
  },
  dx(node, index) {
    const { p } = softmaxOf(inputsOf(node)[0]), target = node.tensors.target.data;
    const mass = target.reduce((a, b) => a + b, 0), own = factor(node, "p", index, "p");
    const mean = isBatch ? [constant(`1/${batchSize}`, 1 / batchSize)] : [];
    const terms = [product({ ...own, value: p[index] }, ...(mass === 1 ? [] : [constant("Σy", mass)]), ...mean),
      product(constant("−1", -1), factor(node, "target", index, "y"), ...mean)];
    return sumOf("dx", terms, { note: isBatch ? "note.mean" : "note.n1" });
  },
};

const rules = {
  Conv2d: convRules(false), ConvTranspose2d: convRules(true), MaxPool2d: maxPoolRules, GlobalMaxPool2d: maxPoolRules,
  AvgPool2d: avgPoolRules, GlobalAvgPool2d: avgPoolRules, BatchNorm2d: batchNormRules, BatchNorm1d: batchNormRules,
  Linear: linearRules, Add: addRules, Mul: mulRules, Concat: concatRules, Softmax: softmaxRules, Loss: lossRules,
  ...Object.fromEntries(Object.keys(pointwise).map((kind) => [kind, pointwiseRules(kind)])),
};

// 1/N times a number of each image, found with that image shown.
function perImage(valueOfImage, symbol) {
  const before = shownImage.n, terms = [];
  for (let n = 0; n < batchSize; n++) {
    bindImage(n);
    terms.push(product(constant(`1/${batchSize}`, 1 / batchSize), constant(t("batch.of", { symbol, n }), valueOfImage(n))));
  }
  bindImage(before);
  return terms;
}

const given = (note) => ({ form: "given", equation: null, terms: [], note });

// Takes cell c apart; `owner` in the answer is the layer whose equation made the number.
function explain(c) {
  const { node, tensor, index } = c;
  if (tensor === "dy") {
    if (node === lossNode) return { ...given("note.seed"), total: 1, owner: node };
    if (node.consumers.length > 1) {
      const terms = node.consumers.map(({ node: to, slot }) => product(factor(to, "dx" + slot, index, `dx of ${to.name}`)));
      return { ...sumOf("dx", terms, { note: "note.branches" }), owner: node, equation: null };
    }
    const [{ node: to, slot }] = node.consumers;
    return { ...rules[to.kind].dx(to, index, slot), owner: to };
  }
  if (tensor.startsWith("dx")) return { ...rules[node.kind].dx(node, index, Number(tensor[2])), owner: node };
  if (tensor.startsWith("d") && node.parameters.includes(tensor.slice(1))) {
    const rule = rules[node.kind][tensor.slice(1)], own = rule(node, index);
    if (!isBatch || node.values_only) return { ...own, owner: node };
    // The mean over the images of each one's own gradient: dy carries 1/N, so N times the image's sum is its own.
    const terms = perImage(() => batchSize * rule(node, index).total, tensorTitle(node, tensor));
    return { ...sumOf(own.equation, terms, { note: "note.mean" }), owner: node, own };
  }
  if (tensor === "p") return { ...rules[node.kind].p(node, index), owner: node };
  if (tensor === "y" && node.kind !== "Input") return { ...rules[node.kind].y(node, index), owner: node };
  if (tensor === "y") {
    // A pixel, normalised as in training.
    const channel = node.shape.length === 3 ? positionOf(c)[0] : 0, x = valueAt(c);
    return { ...given("note.pixel"), total: x, owner: node, steps: [constant(t("pixel.brightness"), brightness(x, channel)), constant(t("pixel.mean"), about.mean[channel] ?? 0), constant(t("pixel.std"), about.std[channel] ?? 1)] };
  }
  const note = tensor === "target" ? "note.target"
    : tensor === "mask" ? "note.mask" : tensor.startsWith("running") ? "note.running" : "note.parameter";
  return { ...given(note), total: valueAt(c), owner: node };
}

// Where an activation goes: the outputs whose equations read it, those first through which most gradient returns.
function readersOf(c) {
  if (c.tensor !== "y") return [];
  return c.node.consumers.flatMap(({ node, slot }) => {
    const terms = [...rules[node.kind].dx(node, c.index, slot).terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
    const gradients = terms.map((term) => term.factors.find((f) => f.cell?.node === node && /^(dy|p)$/.test(f.cell.tensor))?.cell);
    return gradients.filter(Boolean).map((g) => (g.tensor === "p" ? g : cell(node, "y", g.index)));
  });
}

// The 50 terms that weigh most, and the rest as one number.
function largestTerms(terms, keep = 50) {
  if (terms.length <= keep) return { shown: terms, rest: null };
  const order = terms.map((_, k) => k).sort((a, b) => Math.abs(terms[b].value) - Math.abs(terms[a].value) || a - b);
  const shown = order.slice(0, keep).map((k) => terms[k]);
  const hidden = order.slice(keep).map((k) => terms[k]);
  return { shown, rest: { count: hidden.length, value: total(hidden) } };
}
