// Layers that this page cannot compute (one's own, or without a derivation): their stored numbers stand for them.
// What would need to run them on other numbers (training, experiments, the tour, edits) is left out then.

const fixedPage = nodes.some((node) => node.values_only);

function standIn(node) {
  const stored = (own, name) => batchOf(own, name).map((data) => Float64Array.from(data));
  const gradients = (own) => Object.fromEntries(own.parameters.map((name) => [name, Float64Array.from(own.tensors["d" + name].data)]));
  layerKinds[node.kind] = {
    forward: (own) => Float64Array.from(own.tensors.y.data),
    backward: (own) => ({ dx: [Float64Array.from(own.tensors.dx0.data)], grads: gradients(own) }),
    forwardBatch: (own) => ({ ys: stored(own, "y"), statistics: {} }),
    backwardBatch: (own) => ({ dxs: stored(own, "dx0"), grads: gradients(own) }),
  };
  const shown = (own, tensor, index) => ({ ...given("note.valuesonly"), total: own.tensors[tensor].data[index] });
  rules[node.kind] = {
    y: (own, index) => shown(own, "y", index),
    dx: (own, index) => shown(own, "dx0", index),
    ...Object.fromEntries(node.parameters.map((name) => [name, (own, index) => shown(own, "d" + name, index)])),
  };
}

nodes.filter((node) => node.values_only).forEach(standIn);
