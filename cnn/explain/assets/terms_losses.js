// How the numbers of losses beside softmax with cross-entropy are made.

const errorAt = (node, k) => ({ symbol: `(z[${k}] − y[${k}])`, value: inputAt(node, k).value - node.tensors.target.data[k], cell: cell(nodes[node.inputs[0]], "y", k) });
const zAt = (node, k) => ({ ...inputAt(node, k), symbol: cellTitle(cell(nodes[node.inputs[0]], "y", k)).replace("y", "z") });
const share = (node, numerator = 1) => constant(`${numerator}/${node.tensors.target.data.length}`, numerator / node.tensors.target.data.length);
const everyTerm = (node, make) => Array.from(node.tensors.target.data, (_, k) => make(k)).filter(Boolean);

Object.assign(rules, {
  MSELoss: {
    y: (node) => sumOf("forward", everyTerm(node, (k) => product(share(node), errorAt(node, k), errorAt(node, k)))),
    p: (node, k) => sumOf("forward", [product(zAt(node, k))]),
    dx: (node, k) => sumOf("dx", [product(share(node, 2), zAt(node, k)), product(share(node, -2), factor(node, "target", k, "y"))], { note: "note.n1" }),
  },
  L1Loss: {
    y: (node) => sumOf("forward", everyTerm(node, (k) => product(share(node), { ...errorAt(node, k), symbol: `|z[${k}] − y[${k}]|`, value: Math.abs(errorAt(node, k).value) }))),
    p: (node, k) => sumOf("forward", [product(zAt(node, k))]),
    dx: (node, k) => sumOf("dx", [product(share(node), constant("sign(z − y)", Math.sign(errorAt(node, k).value)))], { steps: [zAt(node, k), factor(node, "target", k, "y")], note: "note.n1" }),
  },
  BCEWithLogitsLoss: {
    y(node) {
      const target = node.tensors.target.data;
      return sumOf("forward", everyTerm(node, (k) => {
        const z = inputAt(node, k).value, p = cell(node, "p", k);
        const there = { symbol: `−log p[${k}]`, value: softplusOf(-z), cell: p }, missing = { symbol: `−log(1 − p[${k}])`, value: softplusOf(z), cell: p };
        if (target[k] !== 0 && target[k] !== 1) return product(share(node), constant(`y·${there.symbol} + (1 − y)·${missing.symbol}`, target[k] * there.value + (1 - target[k]) * missing.value));
        return product(share(node), target[k] ? there : missing);
      }));
    },
    p: (node, k) => sumOf("sigmoid", [product(constant("1/(1 + exp(−z))", sigmoidOf(inputAt(node, k).value)))], { steps: [zAt(node, k), constant("exp(−z)", Math.exp(-inputAt(node, k).value))] }),
    dx: (node, k) => sumOf("dx", [product(share(node), { ...factor(node, "p", k, "p"), value: sigmoidOf(inputAt(node, k).value) }), product(share(node, -1), factor(node, "target", k, "y"))], { note: "note.n1" }),
  },
  PixelLoss: {
    counted: (node) => node.tensors.target.data.reduce((n, t) => n + (t !== ignoredPixel), 0),
    column(node, q) {
      const z = inputsOf(node)[0], pixels = node.tensors.target.data.length;
      return softmaxOf(columnAt(z, q, pixels));
    },
    y(node) {
      const target = node.tensors.target.data, pixels = target.length, mean = constant(`1/${this.counted(node)}`, 1 / this.counted(node)), z = inputsOf(node)[0];
      return sumOf("forward", everyTerm(node, (q) => {
        if (target[q] === ignoredPixel) return null;
        const { max, sum } = this.column(node, q), at = target[q] * pixels + q, c = cell(node, "p", at);
        return product(mean, { symbol: `−log ${cellTitle(c)}`, value: Math.log(sum) - (z[at] - max), cell: c });
      }));
    },
    p(node, index) {
      const pixels = node.tensors.target.data.length, own = zAt(node, index), { max, sum } = this.column(node, index % pixels);
      return sumOf("softmax", [product(constant("exp(z − max)", Math.exp(own.value - max)), constant("1/Σ", 1 / sum))], {
        steps: [own, constant("max z", max), constant("z − max", own.value - max), constant("Σ exp(z − max)", sum)],
      });
    },
    dx(node, index) {
      const target = node.tensors.target.data, pixels = target.length, q = index % pixels, k = Math.floor(index / pixels);
      if (target[q] === ignoredPixel) return { ...sumOf("dx", []), note: "note.ignored" };
      const mean = this.counted(node), p = { ...factor(node, "p", index, "p"), value: this.column(node, q).p[k] };
      return sumOf("dx", [product(constant(`1/${mean}`, 1 / mean), p), product(constant(`−1/${mean}`, -1 / mean), constant(`[k = ${target[q]}]`, k === target[q] ? 1 : 0))], { steps: [factor(node, "target", q, "t")] });
    },
  },
});
