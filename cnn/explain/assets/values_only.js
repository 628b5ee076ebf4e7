// Layers that this page cannot compute (one's own, or without a derivation): their stored numbers stand for them.
// What would need to run them on other numbers (training, experiments, the tour, edits) is left out then.

const fixedPage = nodes.some((node) => node.values_only);

function standIn(node) {
  const stored = (name) => Float64Array.from(node.tensors[name].data);
  layerKinds[node.kind] = {
    forward: (own) => Float64Array.from(own.tensors.y.data),
    backward: (own) => ({
      dx: own.inputs.map((_, slot) => Float64Array.from(own.tensors["dx" + slot].data)),
      grads: Object.fromEntries(own.parameters.map((name) => [name, Float64Array.from(own.tensors["d" + name].data)])),
    }),
  };
  const shown = (own, tensor, index) => ({ ...given("note.valuesonly"), total: own.tensors[tensor].data[index] });
  rules[node.kind] = {
    y: (own, index) => shown(own, "y", index),
    dx: (own, index, slot = 0) => shown(own, "dx" + slot, index),
    ...Object.fromEntries(node.parameters.map((name) => [name, (own, index) => shown(own, "d" + name, index)])),
  };
}

nodes.filter((node) => node.values_only).forEach(standIn);
