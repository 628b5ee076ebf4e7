// How numbers were made in the layers of engine_group.js; see terms.js.

function groupParts(node, index) {
  const x = inputsOf(node)[0], p = parametersOf(node), s = groupStatistics(node, x), g = Math.floor(index / s.each), at = affineAt(node, index);
  const xhat = (k) => (x[k] - s.mean[Math.floor(k / s.each)]) * s.rstd[Math.floor(k / s.each)];
  return { x, p, s, g, at, xhat, gamma: p.weight ? [weightAt(node, at)] : [], rstd: constant("1/√(σ² + ε)", s.rstd[g]) };
}

// The values that gamma and beta number `at` belong to.
const affineCells = (node, at) => (node.kind === "LayerNorm" ? [at] : channelCells(node.shape, at));

const groupNormRules = {
  y(node, index) {
    const { s, g, at, xhat, gamma, rstd, p } = groupParts(node, index), terms = [product(constant("x̂", xhat(index)), ...gamma)];
    if (p.bias) terms.push(product(biasAt(node, at)));
    return sumOf("forward", terms, { steps: [inputAt(node, index), constant("μ", s.mean[g]), constant("σ²", s.variance[g]), rstd], note: "note.group" });
  },
  dx(node, index) {
    const { x, p, s, g, xhat, gamma, rstd } = groupParts(node, index), sums = groupSums(node, x, node.tensors.dy.data, p, s);
    return sumOf("dx", [product(gradAt(node, index), ...gamma, rstd),
      product(constant("−mean(g)", -sums.plain[g] / s.each), rstd),
      product(constant("x̂", xhat(index)), constant("−mean(g·x̂)", -sums.weighted[g] / s.each), rstd)], { note: "note.group" });
  },
  weight(node, at) {
    const { xhat } = groupParts(node, 0);
    return sumOf("dweight", affineCells(node, at).map((k) => product(gradAt(node, k), constant("x̂", xhat(k)))), { note: "note.group" });
  },
  bias: (node, at) => sumOf("dbias", affineCells(node, at).map((k) => product(gradAt(node, k)))),
};

const preluRules = {
  y(node, index) {
    const x = inputAt(node, index), open = x.value > 0;
    return sumOf("forward", [product(x, open ? constant("gate open", 1) : weightAt(node, slopeAt(node, index)))], { note: open ? "note.open" : "note.sloped" });
  },
  dx(node, index) {
    const x = inputAt(node, index), open = x.value > 0;
    return sumOf("dx", [product(gradAt(node, index), open ? constant("∂y/∂x", 1) : weightAt(node, slopeAt(node, index)))], { steps: [x], note: open ? "note.open" : "note.sloped" });
  },
  // Numbers above 0 have no part in it.
  weight(node, at) {
    const x = inputsOf(node)[0], cells = node.stored.weight.size === 1 ? [...x.keys()] : channelCells(node.shape, at), below = cells.filter((k) => !(x[k] > 0));
    return { ...sumOf("dweight", below.map((k) => product(gradAt(node, k), inputAt(node, k)))), note: below.length ? null : "note.allopen" };
  },
};

const copyOf = (equation, terms, note = null) => ({ form: "copy", equation, terms, total: total(terms), note });

const planeRules = {
  y(node, index) {
    const from = sourceOf(node, index);
    return from < 0 ? copyOf("forward", [], "note.padding") : copyOf("forward", [product(inputAt(node, from))]);
  },
  dx(node, index) {
    const [c, a, b] = unravel(index, node.inShapes[0]), [, OH, OW] = node.shape, terms = [];
    const [sh, sw] = node.attrs.scale_factor ?? [1, 1], [[top], [left]] = node.attrs.scale_factor ? [[0], [0]] : node.attrs.padding;
    for (let i = a * sh + top; i < a * sh + top + sh; i++)
      for (let j = b * sw + left; j < b * sw + left + sw; j++) if (i >= 0 && i < OH && j >= 0 && j < OW) terms.push(product(gradAt(node, (c * OH + i) * OW + j)));
    return terms.length > 1 ? sumOf("dx", terms) : copyOf("dx", terms, terms.length ? null : "note.cut");
  },
};

const logSoftmaxRules = {
  y(node, index) {
    const [C] = node.shape, each = sizeOf(node.shape) / C, column = Array.from({ length: C }, (_, c) => inputAt(node, c * each + (index % each)));
    const { max, sum } = softmaxOf(Float64Array.from(column, (f) => f.value));
    return sumOf("forward", [product(inputAt(node, index)), product(constant("−max", -max)), product(constant("−log Σ exp(x − max)", -Math.log(sum)))], { steps: column });
  },
  dx(node, index) {
    const [C] = node.shape, each = sizeOf(node.shape) / C, p = layerKinds.Softmax.forward(node, [inputsOf(node)[0]])[index];
    const others = Array.from({ length: C }, (_, c) => product(gradAt(node, c * each + (index % each)), constant("−S", -p)));
    return sumOf("dx", [product(gradAt(node, index)), ...others], { steps: [inputAt(node, index), constant("S = exp(y)", p)] });
  },
};

const responseRules = {
  y(node, index) {
    const x = inputsOf(node)[0], each = x.length / node.shape[0], [from, to] = responseWindow(node, Math.floor(index / each)), s = responseScale(node, x, index);
    const window = Array.from({ length: to - from + 1 }, (_, c) => inputAt(node, (from + c) * each + (index % each)));
    return sumOf("forward", [product(inputAt(node, index), constant("s^−β", s ** -node.attrs.beta))], { steps: [...window, constant("s", s)] });
  },
  dx(node, index) {
    const x = inputsOf(node)[0], { alpha, beta, size } = node.attrs, each = x.length / node.shape[0], [from, to] = responseReaders(node, Math.floor(index / each));
    const factorOf = (k) => constant("−2αβ/n · x · s^(−β−1)", ((-2 * alpha * beta) / size) * x[index] * responseScale(node, x, k) ** (-beta - 1));
    const places = Array.from({ length: to - from + 1 }, (_, c) => (from + c) * each + (index % each));
    return sumOf("dx", [product(gradAt(node, index), constant("s^−β", responseScale(node, x, index) ** -beta)), ...places.map((k) => product(gradAt(node, k), inputAt(node, k), factorOf(k)))]);
  },
};

Object.assign(rules, { LogSoftmax: logSoftmaxRules, LocalResponseNorm: responseRules, GroupNorm: groupNormRules, LayerNorm: groupNormRules, PReLU: preluRules, Upsample: planeRules, ZeroPad2d: planeRules });
