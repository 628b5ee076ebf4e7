// What is shown now. At first the stored numbers; as soon as the reader changes anything (the mode, the target, a pixel,
// a weight) the page's engine computes the network again in float64, and every view reads the new numbers.

const about = manifest.about;
const storedTensors = nodes.map((node) => ({ ...node.tensors }));
const live = {
  label: about.label, known: about.known ?? true, smoothing: 0, training: about.training ?? false,
  image: null, // Float64Array, normalised, or null: the stored image
  parameters: null, // by node id, or null: the stored ones
  steps: 0, // training steps since the stored weights
  moment: null, // the step of the run whose weights these are
};

// One value a channel has no variance: there BatchNorm keeps the running statistics, in both modes.
const mixesImage = (node) => node.kind.startsWith("Batch") && node.shape.length === 3 && node.shape[1] * node.shape[2] > 1;
const hasModes = nodes.some(mixesImage);

const isStored = () => !live.image && !live.parameters && live.label === about.label && live.smoothing === 0 && live.training === (about.training ?? false);
const fixed = (tensor, data) => ({ shape: tensor.shape, data });

// Copies of all parameters and statistics as they are now, by node id.
const currentParameters = () => nodes.map((node) => Object.fromEntries([...node.parameters, ...node.buffers].map((name) => [name, Float64Array.from(node.tensors[name].data)])));

// Puts the numbers of the present state where every view reads them.
function computeLive() {
  finishVerification();
  chains.clear();
  Object.assign(lab, { curve: null, step: null, logRate: null });
  nodes.forEach((node) => (node.tensors = { ...storedTensors[node.id] }));
  for (const node of nodes) if (mixesImage(node)) node.attrs.training = live.training;
  if (isStored()) return;
  for (const node of nodes) {
    for (const name of live.parameters ? [...node.parameters, ...node.buffers] : []) node.tensors[name] = fixed(node.tensors[name], live.parameters[node.id][name]);
  }
  if (live.image) nodes[0].tensors.y = fixed(nodes[0].tensors.y, live.image);
  const classes = lossNode.tensors.target.data.length;
  if (!otherLoss) lossNode.tensors.target = fixed(lossNode.tensors.target, targetOf(live.label, classes, live.smoothing));
  let values = runForward();
  if (!live.known && !otherLoss) {
    // Nobody said what it is: the guess stands in as the target, as in cnn/commands/explain.py.
    live.label = statisticsOf(values[lossNode.inputs[0]]).maxAt;
    lossNode.tensors.target = fixed(lossNode.tensors.target, targetOf(live.label, classes, live.smoothing));
    values = runForward(new Map([[lossNode, {}]]), values);
  }
  const { dys, grads } = runBackward(values);
  for (const node of nodes) {
    node.tensors.y = fixed(node.tensors.y, values[node.id]);
    if (node.tensors.dy) node.tensors.dy = fixed(node.tensors.dy, dys[node.id]);
    for (const name of node.parameters) node.tensors["d" + name] = fixed(node.tensors["d" + name], grads[node.id][name]);
  }
  lossNode.tensors.p = fixed(lossNode.tensors.p, layerKinds[lossKind].answers(values[lossNode.inputs[0]], classes));
}

// Changes the state and shows it. focus: id of the control to return to. Where a pass would be felt, the page first says
// that it computes.
function setLive(changes, focus = null) {
  Object.assign(live, changes);
  const show = () => {
    computeLive();
    refreshPage(focus);
  };
  if (networkWork < feltWork) return show();
  byId("summary").append(h("p", { class: "ribbon", role: "status" }, t("lab.computing")));
  requestAnimationFrame(() => setTimeout(show));
}

function restoreStored(focus = null) {
  setLive({ label: about.label, known: about.known ?? true, smoothing: 0, training: about.training ?? false, image: null, parameters: null, steps: 0, moment: null }, focus);
  trainerLoaded.fresh = false;
}

// One number of the image or of a parameter, by hand.
function editCell(c, value, focus) {
  if (c.node.kind === "Input") {
    const image = Float64Array.from(c.node.tensors.y.data);
    image[c.index] = value;
    return setLive({ image }, focus);
  }
  const parameters = currentParameters();
  parameters[c.node.id][c.tensor][c.index] = value;
  setLive({ parameters, moment: null }, focus);
  trainerLoaded.fresh = false;
}

const isEditable = (c) => !fixedPage && ((c.node.kind === "Input" && c.tensor === "y") || c.node.parameters.includes(c.tensor));

// Smoothed targets belong to training, so they bring its BatchNorm along.
function setSmoothing(on, focus) {
  setLive(on ? { smoothing: about.smoothing, training: true } : { smoothing: 0 }, focus);
}

// Prediction: running statistics and one-hot targets.
function setMode(training, focus) {
  setLive(training ? { training } : { training, smoothing: 0 }, focus);
}

// --- the samples that came with the page --------------------------------------------------------------------------

// images: Float64Arrays as the network takes them, made when first asked for; held: how many of the last are not trained on.
function openSamples({ pixels, labels }) {
  let images = null;
  const decode = () => {
    const bytes = bytesOf(pixels), size = sizeOf(nodes[0].shape), each = sizeOf(nodes[0].shape.slice(1));
    return labels.map((_, n) => {
      const image = new Float64Array(size);
      for (let k = 0; k < size; k++) image[k] = normalized(bytes[n * size + k] / 255, Math.floor(k / each));
      return image;
    });
  };
  return { get images() { return (images ??= decode()); }, labels, held: labels.length >= 40 ? Math.floor(labels.length / 4) : 0 };
}

// A brightness from 0 to 1 as the network takes it, and back.
const normalized = (value, channel = 0) => (value - (about.mean[channel] ?? 0)) / (about.std[channel] ?? 1);
const brightness = (value, channel = 0) => value * (about.std[channel] ?? 1) + (about.mean[channel] ?? 0);

const samples = manifest.samples ? openSamples(manifest.samples) : null;

// Parameters drawn anew from a seed: weights from U(±sqrt(6/fan_in)), biases 0, statistics as at the start.
function randomParameters(seed) {
  const random = seededRandom(seed);
  return nodes.map((node) => Object.fromEntries([...node.parameters, ...node.buffers].map((name) => {
    const { shape, data } = node.tensors[name];
    if (name === "weight" && node.kind === "PReLU") return [name, new Float64Array(data.length).fill(0.25)];
    if (name === "weight" && !isNorm(node)) {
      const bound = Math.sqrt(6 / sizeOf(shape.slice(1)));
      return [name, Float64Array.from(data, () => bound * (2 * random() - 1))];
    }
    return [name, new Float64Array(data.length).fill(name === "weight" || name === "running_var" ? 1 : 0)];
  })));
}

// --- the worker ---------------------------------------------------------------------------------------------------

const trainerLoaded = { post: null, fresh: false, heard: () => {} };

// Starts the worker; where workers are forbidden the same service runs here, between the reader's actions.
function trainerPost(message) {
  if (!trainerLoaded.post) {
    try {
      const start = "\nconst channel = new MessageChannel(); let next = null;\nchannel.port1.onmessage = () => next();\n"
        + "onmessage = (() => { const hear = trainerService(postMessage, (f) => { next = f; channel.port2.postMessage(0); }); return (event) => hear(event.data); })();\n";
      const worker = new Worker(URL.createObjectURL(new Blob([byId("engine").textContent, start], { type: "text/javascript" })));
      worker.onmessage = (event) => trainerLoaded.heard(event.data);
      trainerLoaded.post = (what) => worker.postMessage(what);
    } catch {
      const hear = trainerService((answer) => setTimeout(() => trainerLoaded.heard(answer)), (f) => setTimeout(f));
      trainerLoaded.post = hear;
    }
  }
  trainerLoaded.post(message);
}

// Gives the trainer the network as it is now.
function loadTrainer(settings, seed) {
  const plain = nodes.map(({ id, kind, inputs, inShapes, shape, attrs, stored, parameters, buffers }) => ({ id, kind, inputs, inShapes, shape, attrs, stored, parameters, buffers }));
  trainerPost({ do: "load", nodes: plain, parameters: currentParameters(), ...samples, classes: lossNode.tensors.p.data.length, settings, seed });
  trainerLoaded.fresh = true;
}
