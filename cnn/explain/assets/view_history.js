// Time: the same image, seen by the network as it was at several moments of its training, from the first step to the last.

const past = manifest.history ?? [];
const moments = { at: past.length - 1, losses: null, timer: null, node: null };

const snapshotParameters = (moment) => moment.nodes.map((own) => Object.fromEntries(Object.entries(own).map(([name, spec]) => [name, Float64Array.from(storedTensor(spec).data)])));

function goMoment(at) {
  moments.at = Math.max(0, Math.min(past.length - 1, at));
  trainerLoaded.fresh = false;
  setLive({ parameters: snapshotParameters(past[moments.at]), steps: 0, moment: past[moments.at].step });
}

function renderHistory() {
  const slider = h("input", { type: "range", id: "history-at", min: 0, max: past.length - 1, step: 1, value: moments.at, "aria-label": t("history.at"), "aria-valuetext": momentText(), oninput: (event) => (stopHistory(), goMoment(Number(event.target.value))) });
  const layers = trainable.filter((node) => node.tensors.weight);
  moments.node ??= layers.find((node) => node.kind === "Conv2d") ?? layers[0];
  const pick = h("select", { id: "history-layer", onchange: (event) => {
    moments.node = nodes[Number(event.target.value)];
    updateHistory();
  } }, layers.map((node) => h("option", { value: node.id, selected: node === moments.node }, nodeTitle(node))));
  if (live.moment !== past[moments.at].step) setTimeout(() => byId("history") && goMoment(moments.at));
  return h("section", { class: "sheet", id: "history" }, h("div", { class: "sheet-head" }, h("h2", {}, t("history.title"))), h("p", { class: "lead" }, t("history.lead")),
    h("div", { class: "player-controls" }, h("button", { class: "button main", id: "history-play", onclick: playHistory }, t("history.play")), slider, h("output", { id: "history-step", for: "history-at" }, momentText())),
    h("div", { id: "history-chart" }, historyChart()),
    h("div", { id: "history-bars" }, trainBars()),
    h("p", { class: "form" }, h("label", { for: "history-layer" }, t("history.layer"), " "), pick),
    h("div", { id: "history-maps", class: "mini" }, miniMaps(moments.node)));
}

const momentText = () => t("history.step", { step: past[moments.at].step.toLocaleString("en"), last: past.at(-1).step.toLocaleString("en") });

// The loss of this image at every moment; worked out between the reader's actions, once for an image and a target.
function historyChart() {
  const x = nodes[0].tensors.y.data, target = lossNode.tensors.target.data;
  if (moments.losses?.x !== x || moments.losses.label !== live.label) {
    moments.losses = { x, label: live.label, points: [] };
    const own = moments.losses;
    function* work() {
      for (const moment of past) {
        const parameters = snapshotParameters(moment), change = new Map(nodes.map((node) => [node, parameters[node.id]]));
        own.points.push([moment.step, lossOf(yield* forwardSteps(change.set(lossNode, { target })))]);
      }
    }
    runGently(work(), () => byId("history-chart")?.replaceChildren(historyChart()), () => moments.losses === own);
  }
  if (moments.losses.points.length < past.length) return h("p", { class: "fine" }, t("chart.empty"));
  return chart({ series: [{ name: t("history.loss"), style: "first", points: moments.losses.points.map(([step, loss]) => [step, Math.max(loss, 1e-12), true]) }], xLog: false, yLog: true, xLabel: t("train.steps"), yLabel: t("page.loss"), label: t("history.chart", { first: number(moments.losses.points[0][1], 3), last: number(moments.losses.points.at(-1)[1], 3) }), cursor: past[moments.at].step });
}

function updateHistory() {
  forgetMaps();
  byId("history-at").value = moments.at;
  byId("history-at").setAttribute("aria-valuetext", momentText());
  byId("history-step").textContent = momentText();
  byId("history-chart").replaceChildren(historyChart());
  byId("history-bars").replaceChildren(...trainBars());
  byId("history-maps").replaceChildren(...miniMaps(moments.node));
}

function stopHistory() {
  clearInterval(moments.timer);
  moments.timer = null;
  if (byId("history-play")) byId("history-play").textContent = t("history.play");
}

function playHistory() {
  if (moments.timer) return stopHistory();
  if (moments.at === past.length - 1) goMoment(0);
  byId("history-play").textContent = t("train.pause");
  moments.timer = setInterval(() => {
    if (!byId("history") || moments.at === past.length - 1) return stopHistory();
    goMoment(moments.at + 1);
  }, 900);
}
