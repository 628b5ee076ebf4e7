// The stations of the tour, chosen from this network: one chain of numbers from a pixel to the loss and back. A kind of
// layer that the network lacks has no station.
// A station: { id, phase, node, cell, also?, guess: { options: [key], right } }; its texts are tour.<id>.title, .text, .ask.

const signGuess = (value) => ({ options: ["guess.positive", "guess.zero", "guess.negative"], right: value > 0 ? "guess.positive" : value < 0 ? "guess.negative" : "guess.zero" });

let chosen = null; // of the numbers shown at present: { z, list }

// The largest number of a tensor, by size.
function largestCell(node, tensor) {
  const { maxAt, minAt, max, min } = statisticsOf(tensorOf(node, tensor).data);
  return cell(node, tensor, Math.abs(min) > Math.abs(max) ? minAt : maxAt);
}

function stations() {
  const z = nodes[lossNode.inputs[0]].tensors.y.data;
  if (chosen?.z !== z) chosen = { z, list: chooseStations() };
  return chosen.list;
}

function chooseStations() {
  const logits = nodes[lossNode.inputs[0]], list = [], truth = live.label;
  const way = trace(cell(lossNode, "p", truth)).map((stop) => stop.cell).reverse(); // pixel first
  const first = (pattern) => way.find((c) => pattern.test(c.node.kind)) ?? firstOfKind(pattern);
  const add = (id, phase, c, guess, extra = {}) => c && list.push({ id, phase, node: c.node, cell: c, guess, ...extra });
  const pixel = way.find((c) => c.node.kind === "Input") ?? largestCell(nodes[0], "y");
  const conv = first(/^Conv2d$/), relu = first(/^ReLU$/), pool = first(/^MaxPool2d$/), p = lossNode.tensors.p.data, loss = lossNode.tensors.y.data[0];
  add("pixel", "forward", pixel, { options: ["guess.dark", "guess.bright"], right: brightness(valueAt(pixel), channelOf(pixel)) > 0.5 ? "guess.bright" : "guess.dark" });
  if (conv) add("conv", "forward", conv, signGuess(valueAt(conv)));
  if (relu) add("relu", "forward", relu, { options: ["guess.passes", "guess.blocked"], right: valueAt(relu) !== 0 ? "guess.passes" : "guess.blocked" });
  if (pool) add("pool", "forward", pool, { options: ["guess.one", "guess.all"], right: "guess.one" });
  add("linear", "forward", cell(logits, "y", truth), { options: ["guess.largest", "guess.notlargest"], right: statisticsOf(logits.tensors.y.data).maxAt === truth ? "guess.largest" : "guess.notlargest" });
  const size = p[truth] > 0.9 ? "guess.above90" : p[truth] > 0.5 ? "guess.above50" : "guess.below50";
  add("softmax", "forward", cell(lossNode, "p", truth), { options: ["guess.above90", "guess.above50", "guess.below50"], right: size });
  add("loss", "loss", cell(lossNode, "y", 0), { options: ["guess.small", "guess.large"], right: loss < 0.7 ? "guess.small" : "guess.large" });
  add("error", "backward", cell(logits, "dy", truth), { options: ["guess.negative", "guess.positive"], right: valueAt(cell(logits, "dy", truth)) < 0 ? "guess.negative" : "guess.positive" });
  const linear = [...nodes].reverse().find((node) => node.kind === "Linear");
  if (linear) addPair(add, "linear-back", linear, trainedCell(linear), nodes[linear.inputs[0]]);
  const gate = way.filter((c) => /^(ReLU|MaxPool2d)$/.test(c.node.kind)).map((c) => c.node).pop() ?? null;
  if (gate) {
    const arriving = largestCell(nodes[gate.inputs[0]], "dy");
    add("gate-back", "backward", arriving, signGuess(valueAt(arriving)), { also: closedCell(gate) });
  }
  const back = [...nodes].reverse().find((node) => node.kind === "Conv2d" && nodes[node.inputs[0]].kind !== "Input") ?? nodes.find((node) => node.kind === "Conv2d");
  if (back) addPair(add, "conv-back", back, trainedCell(back), nodes[back.inputs[0]]);
  const moving = back ?? linear;
  if (moving) {
    const c = trainedCell(moving), w = cell(c.node, c.tensor.slice(1), c.index);
    add("update", "update", w, { options: ["guess.up", "guess.down"], right: valueAt(c) < 0 ? "guess.up" : "guess.down" });
  }
  add("again", "all", cell(lossNode, "y", 0), { options: ["guess.falls", "guess.rises"], right: null });
  return list;
}

const channelOf = (c) => (c.node.shape.length === 3 ? positionOf(c)[0] : 0);

function firstOfKind(pattern) {
  const node = nodes.find((one) => pattern.test(one.kind));
  return node ? largestCell(node, "y") : null;
}

// The weight whose gradient is largest.
const trainedCell = (node) => largestCell(node, "dweight");

// The two gradients of a layer: for its parameters, and for its input.
function addPair(add, id, node, weight, before) {
  add(id, "backward", weight, signGuess(valueAt(weight)), { also: largestCell(before, "dy"), node });
}

// Where a gate is closed or a window was lost, if anywhere: a gradient that is exactly 0.
function closedCell(gate) {
  const before = nodes[gate.inputs[0]], { data } = before.tensors.dy, at = data.findIndex((v) => v === 0);
  return at < 0 ? null : cell(before, "dy", at);
}

const findStation = (id) => (id ? Math.max(0, stations().findIndex((one) => one.id === id)) : 0);
