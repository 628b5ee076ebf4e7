// Trains the page's network on the samples in the page. Runs in a worker; the page talks to it by messages:
//   { do: "load", nodes, parameters, images, labels, held, classes, settings, seed }   held: how many of the last are not trained on
//   { do: "settings", settings }  { do: "watch", watch: { id, name, index } }  { do: "step", batches? }  { do: "run" }  { do: "pause" }
// It answers each step or, while running, as fast as the page takes them:
//   { step, loss, losses, accuracy, heldAccuracy, parameters, grads, terms, batch, running, milliseconds }

class Trainer {
  constructor({ nodes, parameters, images, labels, held, classes, settings, seed }) {
    this.net = { nodes, loss: nodes[nodes.length - 1] };
    Object.assign(this, { parameters, images, labels, classes, settings, watch: null });
    this.random = seededRandom(seed);
    this.count = images.length - held;
    this.order = [];
    this.step = 0;
    this.slots = [];
  }

  // The next batch: every training image once in each round, in a new order.
  nextBatch() {
    const size = Math.min(this.settings.batch, this.count);
    if (this.order.length < size) this.order = shuffled(this.count, this.random);
    return this.order.splice(0, size);
  }

  trainStep(batch = this.nextBatch()) {
    const { net, parameters, settings } = this, options = { training: true, random: this.random };
    const run = forwardBatch(net, parameters, batch.map((n) => this.images[n]), options);
    const { loss, dzs } = lossBatch(net, run.values, batch.map((n) => targetOf(this.labels[n], this.classes, settings.smoothing)));
    const { grads } = backwardBatch(net, parameters, run, dzs, true);
    moveStatistics(parameters, run.moved);
    this.step += 1;
    this.terms = this.watch ? this.watchedTerms(grads) : null;
    for (const node of net.nodes) {
      for (const name of node.parameters) {
        const w = parameters[node.id][name], place = (this.slots[node.id] ??= {}), made = place[name]?.[slotNames[settings.method][0]];
        if (!made) place[name] = newSlots(settings.method, w.length);
        updateParameter(w, grads[node.id][name], place[name], settings, decaysOf(node, name), this.step);
      }
    }
    this.grads = grads;
    this.batch = batch;
    return loss;
  }

  watchedTerms(grads) {
    const { id, name, index } = this.watch, node = this.net.nodes[id], own = this.slots[id]?.[name] ?? {};
    const slots = Object.fromEntries(slotNames[this.settings.method].map((slot) => [slot, own[slot]?.[index] ?? 0]));
    return updateTerms(this.parameters[id][name][index], grads[id][name][index], slots, this.settings, decaysOf(node, name), this.step);
  }

  // Another method starts with empty buffers and counts its steps from the beginning.
  change(settings) {
    if (settings.method !== this.settings.method) (this.slots = []), (this.step = 0);
    this.settings = settings;
  }

  accuracy(first, last) {
    if (last <= first) return null;
    const { values } = forwardBatch(this.net, this.parameters, this.images.slice(first, last));
    let right = 0;
    values[this.net.loss.inputs[0]].forEach((z, n) => {
      let best = 0;
      for (let k = 1; k < z.length; k++) if (z[k] > z[best]) best = k;
      if (best === this.labels[first + n]) right += 1;
    });
    return right / (last - first);
  }
}

// Answers messages with `post`; `later` runs a function after other messages have been heard.
function trainerService(post, later) {
  let trainer = null, running = false, taken = true, losses = [], judged = null, total = 0, milliseconds = 0;
  const copy = (arrays) => arrays.map((own) => own && Object.fromEntries(Object.entries(own).map(([name, data]) => [name, data.slice()])));
  const judge = () => {
    const heldFrom = trainer.count;
    judged = { accuracy: trainer.accuracy(0, heldFrom), heldAccuracy: trainer.accuracy(heldFrom, trainer.images.length) };
  };
  const report = () => {
    taken = false;
    const loss = losses[losses.length - 1];
    post({ step: total, loss, losses, ...judged, parameters: copy(trainer.parameters), grads: copy(trainer.grads), terms: trainer.terms, batch: trainer.batch, running, milliseconds });
    losses = [];
  };
  const one = (batch) => {
    const begin = performance.now(), loss = trainer.trainStep(batch);
    milliseconds = performance.now() - begin;
    losses.push(loss);
    total += 1;
    if (!Number.isFinite(loss)) running = false;
    return loss;
  };
  const turn = () => {
    if (!running) return;
    one();
    if (taken || !running) {
      if (total % 5 === 0 || !running || !judged) judge();
      report();
    }
    later(turn);
  };
  return (message) => {
    if (message.do === "load") (trainer = new Trainer(message)), (running = false), (losses = []), (total = 0), (taken = true), (judged = null);
    if (message.do === "settings") trainer.change(message.settings);
    if (message.do === "watch") trainer.watch = message.watch;
    if (message.do === "pause") running = false;
    if (message.do === "taken") taken = true;
    if (message.do === "step") {
      for (const batch of message.batches ?? [undefined]) one(batch);
      judge();
      report();
    }
    if (message.do === "run" && !running) {
      running = true;
      later(turn);
    }
  };
}
