// The cards of losses beside softmax with cross-entropy: a row an output, its error, and what is sent back.

const lossKind = lossNode.kind;
const otherLoss = !isPlainLoss(lossKind);
const shownPixel = { at: Math.max(0, lossNode.tensors.target.data.findIndex((t) => t !== ignoredPixel)) };

// An output in units of its own: what a regression tells is mean + std · z.
const ownUnits = (value, k) => (about.units ? about.units.mean[k] + about.units.std[k] * value : value);

// What is told and what is right, one { k, name, told, right, fill, cell } an output: the strongest first, numbers as they come.
function answersShown() {
  const p = lossNode.tensors.p.data, target = lossNode.tensors.target.data;
  if (lossKind === "PixelLoss") {
    const pixels = target.length, counts = new Float64Array(p.length / pixels), right = new Float64Array(counts.length);
    for (let q = 0; q < pixels; q++) {
      counts[statisticsOf(columnAt(p, q, pixels)).maxAt] += 1 / pixels;
      if (target[q] !== ignoredPixel) right[target[q]] += 1 / pixels;
    }
    return [...counts.keys()].map((k) => ({ k, name: className(k), told: counts[k], right: right[k], fill: counts[k], cell: null })).sort((a, b) => b.told - a.told);
  }
  const rows = [...p.keys()].map((k) => ({ k, name: className(k), told: p[k], right: target[k], fill: p[k], cell: cell(lossNode, "p", k) }));
  if (lossKind === "BCEWithLogitsLoss") return rows.sort((a, b) => b.told - a.told || a.k - b.k);
  const largest = Math.max(...rows.map((row) => Math.abs(row.told)), 1e-300);
  return rows.map((row) => ({ ...row, fill: Math.max(0, row.told) / largest }));
}

function toldText() {
  if (lossKind === "PixelLoss") {
    const target = lossNode.tensors.target.data, p = lossNode.tensors.p.data, pixels = target.length;
    const counted = [...target.keys()].filter((q) => target[q] !== ignoredPixel);
    const right = counted.filter((q) => statisticsOf(columnAt(p, q, pixels)).maxAt === target[q]).length;
    return t(live.known ? "told.pixels" : "told.pixels.unknown", { right, n: counted.length });
  }
  if (lossKind === "BCEWithLogitsLoss") {
    const names = (kept) => answersShown().filter(kept).map((row) => row.name).join(", ") || t("told.none");
    return t(live.known ? "told.labels" : "told.labels.unknown", { told: names((row) => row.told > 0.5), right: names((row) => row.right > 0.5) });
  }
  const list = (pick) => answersShown().slice(0, 4).map((row) => `${row.name} ${number(ownUnits(pick(row), row.k), 4)}`).join(", ");
  return t(live.known ? "told.numbers" : "told.numbers.unknown", { told: list((row) => row.told), right: list((row) => row.right) });
}

function renderOtherLoss() {
  return h("section", { class: "sheet", id: "losscard" },
    h("div", { class: "sheet-head" }, h("h2", {}, t(`loss.${lossKind}.title`))),
    lossKind === "PixelLoss" ? pixelTable() : outputTable(),
    h("ul", { class: "facts" }, h("li", {}, t("loss.value"), " ", numberButton(cell(lossNode, "y", 0), 6))),
    h("div", { class: "prose" }, renderDerivation(lossNode)));
}

function tableOf(head, rows, foot = null) {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t(`loss.${lossKind}.title`) }, h("table", { class: "losstable", id: "losstable" },
    h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows), foot));
}

function outputTable() {
  const before = nodes[lossNode.inputs[0]], z = before.tensors.y.data, target = lossNode.tensors.target.data, bce = lossKind === "BCEWithLogitsLoss";
  const values = bce ? z.map((v, k) => target[k] * softplusOf(-v) + (1 - target[k]) * softplusOf(v)) : z.map((v, k) => (lossKind === "L1Loss" ? Math.abs(v - target[k]) : (v - target[k]) ** 2));
  const units = !bce && about.units, row = (k) => h("tr", { "data-class": k, class: bce && target[k] > 0.5 ? "truth" : null },
    h("th", { scope: "row" }, className(k)),
    units ? [h("td", { class: "num" }, number(ownUnits(z[k], k), 5)), h("td", { class: "num" }, number(ownUnits(target[k], k), 5))] : null,
    h("td", {}, numberButton(cell(before, "y", k))),
    bce ? h("td", {}, numberButton(cell(lossNode, "p", k))) : null,
    h("td", {}, number(target[k])),
    h("td", {}, plainNumber((bce ? lossNode.tensors.p.data[k] : z[k]) - target[k])),
    h("td", { class: "num" }, number(values[k])),
    h("td", {}, numberButton(cell(before, "dy", k))));
  const head = [t("loss.output"), ...(units ? [t("loss.told"), t("loss.right")] : []), "z", ...(bce ? ["p"] : []), "y", bce ? "p − y" : "z − y",
    bce ? "−log p, −log(1 − p)" : lossKind === "L1Loss" ? "|z − y|" : "(z − y)²", "∂L/∂z"];
  const mean = values.reduce((a, b) => a + b, 0) / z.length;
  return [h("p", { class: "lead" }, t(`loss.${lossKind}.lead`), units ? ` ${t("loss.units")}` : ""),
    tableOf(head, [...z.keys()].map(row), h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, t("loss.mean", { m: z.length })), Array.from({ length: head.length - 3 }, () => h("td", {})),
      h("td", { class: "num", id: "mean-loss", "data-value": String(mean) }, number(mean)), h("td", {}))))];
}

function pixelTable() {
  const before = nodes[lossNode.inputs[0]], z = before.tensors.y.data, target = lossNode.tensors.target.data, pixels = target.length, width = before.shape[2], q = shownPixel.at;
  const classes = [...Array(z.length / pixels).keys()], counted = target[q] !== ignoredPixel;
  const choose = (axis, most) => h("label", {}, `${axis} `, h("input", { type: "number", id: `pixel-${axis}`, min: 0, max: most, value: axis === "i" ? Math.floor(q / width) : q % width, onchange: (event) => {
    const at = Math.min(most, Math.max(0, Math.floor(Number(event.target.value) || 0)));
    shownPixel.at = axis === "i" ? at * width + (q % width) : Math.floor(q / width) * width + at;
    byId("content").replaceChildren(renderLoss());
    byId(`pixel-${axis}`).focus();
  } }));
  const row = (k) => h("tr", { "data-class": k, class: k === target[q] ? "truth" : null },
    h("th", { scope: "row" }, className(k), k === target[q] ? h("span", { class: "badge" }, t("loss.truth")) : null),
    h("td", {}, numberButton(cell(before, "y", k * pixels + q))),
    h("td", {}, numberButton(cell(lossNode, "p", k * pixels + q))),
    h("td", {}, number(counted && k === target[q] ? 1 : 0)),
    h("td", {}, numberButton(cell(before, "dy", k * pixels + q))));
  return [h("p", { class: "lead" }, t("loss.PixelLoss.lead")),
    h("div", { class: "tools" }, h("span", {}, t("loss.pixel")), choose("i", pixels / width - 1), choose("j", width - 1), counted ? null : h("span", { class: "note" }, t("note.ignored"))),
    tableOf([t("loss.class"), "z", "p", "y", "∂L/∂z"], classes.map(row))];
}
