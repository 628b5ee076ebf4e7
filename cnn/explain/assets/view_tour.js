// The tour: one station at a time. First a guess, then the sum; arrow keys and swipes move, the address names the station.

const tour = { at: 0, opened: new Map(), step: null }; // opened: station id -> the guess, "" if skipped

function goStation(at, focus = null) {
  const list = stations();
  if (at < 0 || at >= list.length) return;
  tour.focus = focus;
  location.hash = `#tour=${list[at].id}`;
}

function renderTour() {
  const list = stations(), station = list[tour.at], open = tour.opened.has(station.id);
  const move = (by, key) => h("button", { class: `button ${by > 0 ? "main" : ""}`, id: by > 0 ? "tour-next" : "tour-back", disabled: !list[tour.at + by], onclick: () => goStation(tour.at + by, by > 0 ? "tour-next" : "tour-back") }, t(key));
  const section = h("section", { class: "sheet tour", id: "tour", "data-station": station.id, "aria-labelledby": "tour-title", ontouchstart: tourTouch, ontouchend: tourTouch },
    h("nav", { class: "stops", "aria-label": t("tour.stations") }, h("ol", {}, list.map((one, k) => h("li", {}, h("a", {
      href: `#tour=${one.id}`, class: `stop ${one.phase}`, "aria-current": k === tour.at ? "step" : null, title: t(`tour.${one.id}.title`), "aria-label": `${k + 1}. ${t(`tour.${one.id}.title`)}`,
    }, String(k + 1)))))),
    h("p", { class: "eyebrow" }, t("tour.count", { k: tour.at + 1, n: list.length }), " · ", t(`loop.${station.phase}`)),
    h("h2", { id: "tour-title", tabindex: -1 }, t(`tour.${station.id}.title`)),
    h("div", { class: "tour-body" },
      h("div", { class: "tour-words" },
        t(`tour.${station.id}.text`, stationValues(station)).split("\n").map((text) => h("p", {}, text)),
        guessBlock(station, open)),
      h("div", { class: "tour-picture" }, stationPicture(station))),
    open ? h("div", { class: "tour-sum", id: "tour-sum" }, stationSum(station)) : null,
    h("div", { class: "tour-moves" }, move(-1, "tour.previous"), h("p", { class: "fine" }, t("tour.keys")), move(1, "tour.next")));
  setTimeout(() => tour.focus && (byId(tour.focus)?.focus({ preventScroll: true }), (tour.focus = null)));
  return section;
}

function stationValues(station) {
  const p = lossNode.tensors.p.data, [C, H, W] = nodes[0].shape;
  return {
    gradient: station.id === "update" ? signed(valueAt(cell(station.cell.node, "d" + station.cell.tensor, station.cell.index)), 3) : "",
    truth: className(live.label), p: probability(p[live.label], 3), loss: number(lossNode.tensors.y.data[0], 3), layer: nodeTitle(station.node),
    size: `${H} × ${W}${C > 1 ? ` × ${C}` : ""}`, value: signed(valueAt(station.cell), 3), classes: p.length, shape: shapeText(station.node.shape),
    parameters: nodes.reduce((n, node) => n + node.parameters.reduce((m, name) => m + node.tensors[name].data.length, 0), 0).toLocaleString("en"),
  };
}

function guessBlock(station, open) {
  const { options } = station.guess, right = station.guess.right ?? (tourStep().after < tourStep().before ? "guess.falls" : "guess.rises");
  const choose = (key) => {
    tour.opened.set(station.id, key);
    showView();
    byId("tour-sum").scrollIntoView({ block: "nearest" });
    byId("tour-next").focus({ preventScroll: true });
    announce(byId("tour-answer").textContent);
  };
  const mine = tour.opened.get(station.id);
  return h("div", { class: "guess" }, h("p", { class: "ask" }, t(`tour.${station.id}.ask`, stationValues(station))),
    h("div", { class: "options", role: "group", "aria-label": t("tour.guess") }, options.map((key) => h("button", {
      class: `button option ${open && key === right ? "right" : ""}`, disabled: open, "data-guess": key, "aria-pressed": String(mine === key), onclick: () => choose(key),
    }, open && key === right ? "✓ " : "", t(key))), open ? null : h("button", { class: "quiet", id: "tour-show", onclick: () => choose("") }, t("tour.show"))),
    open ? h("p", { class: "answer", id: "tour-answer" }, mine === "" ? t("tour.answer", { what: t(right) }) : t(mine === right ? "tour.right" : "tour.wrong", { what: t(right) })) : null);
}

// What one looks at: the map with the cell marked.
function stationPicture(station) {
  const { node, tensor } = station.cell;
  if (station.id === "again" || station.id === "loss" || station.id === "error" || station.id === "softmax" || station.id === "linear") return vectorPicture(station);
  const options = { width: Math.max(220, Math.min(420, innerWidth - 80)) };
  const map = new ValueMap(node, tensor, options);
  const tile = map.tiles > 4 ? tileFigure(station.cell) : null;
  if (tile) return h("figure", { class: "tour-map" }, tile, h("figcaption", {}, tileCaption(station.cell)));
  paintWhenSeen(map);
  map.marked = station.cell.index;
  return h("figure", { class: "tour-map" }, h("div", { class: "mapbox" }, map.canvas), h("figcaption", {}, tileCaption(station.cell)));
}

const tileCaption = (c) => `${cellTitle(c)} · ${nodeTitle(c.node)}`;

// One channel of a tensor, large, with the cell marked.
function tileFigure(c) {
  const { shape, data } = tensorOf(c.node, c.tensor), [, rows, columns] = tileShape(shape), plane = rows * columns;
  const tile = Math.floor(c.index / plane), at = c.index % plane, size = Math.max(4, Math.min(34, Math.floor(300 / Math.max(rows, columns))));
  if (rows === 1) return null;
  const picture = patch(Array.from({ length: plane }, (_, k) => [k, data[tile * plane + k]]), rows, columns, size, statisticsOf(data).size);
  markPatch(picture, at % columns, Math.floor(at / columns), size);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", tileCaption(c));
  return picture;
}

// Logits, probabilities and p − y of every class as bars on both sides of a zero line.
function vectorPicture(station) {
  const logits = nodes[lossNode.inputs[0]], after = station.id === "again" && tour.opened.has("again") ? tourStep().p : null;
  const values = after ?? (station.id === "linear" ? logits.tensors.y.data : station.id === "error" ? logits.tensors.dy.data : lossNode.tensors.p.data);
  return h("figure", { class: "tour-map" }, classBars(values, station.id === "error" || station.id === "linear"),
    h("figcaption", {}, station.id === "linear" ? `z · ${nodeTitle(logits)}` : station.id === "error" ? "p − y" : after ? t("tour.again.after") : "p"));
}

function classBars(values, plus, names = className) {
  const order = values.length > 12 ? [...values.keys()].sort((a, b) => Math.abs(values[b]) - Math.abs(values[a])).slice(0, 12) : [...values.keys()];
  const widest = Math.max(...order.map((k) => Math.abs(values[k])), 1e-300), both = order.some((k) => values[k] < 0);
  return h("ul", { class: `classbars ${both ? "both" : ""}` }, order.map((k) => {
    const bar = h("span", { class: `meter ${plus ? signClass(values[k]) : "plain"}` });
    bar.style.width = `${(both ? 50 : 100) * Math.abs(values[k]) / widest}%`;
    if (both) bar.style[values[k] < 0 ? "right" : "left"] = "50%";
    return h("li", { class: k === live.label ? "truth" : null }, h("span", { class: "name" }, names(k)), h("span", { class: "rail-bar", "aria-hidden": "true" }, bar),
      h("span", { class: `num ${plus ? signClass(values[k]) : ""}`, "data-value": String(values[k]) }, plus ? signed(values[k], 3) : probability(values[k], 3)));
  }));
}

// The sum behind the station's number, and of a layer's second gradient.
function stationSum(station) {
  if (station.id === "update") return [updateSum(station)];
  if (station.id === "again") return [againSum()];
  const parts = [sumOfCell(station.cell, /-back$/.test(station.id) && station.also ? "tour.forparameters" : null)];
  if (station.also) parts.push(sumOfCell(station.also, station.id === "gate-back" ? "tour.closed" : "tour.forinput"));
  return parts;
}

function sumOfCell(c, heading = null) {
  const made = explain(c), value = valueAt(c);
  return h("article", { class: "sum-card" },
    h("div", { class: "sum-left" }, heading && c.tensor !== "y" ? h("h3", {}, t(heading, { layer: nodeTitle(c.node) })) : null,
      h("p", { class: "sum-head" }, h("span", { class: "symbol" }, cellTitle(c)), " = ", h("span", { class: `num ${neverNegative(c) ? "" : signClass(value)}`, "data-value": String(value) }, numberText(c, value, 5))),
      made.note ? h("p", { class: "note" }, t(made.note, { n: made.count ?? "" })) : null,
      equationOf(made), indexedLine(c, made), windowPicture(c, made)),
    h("div", { class: "sum-right" }, made.steps?.length ? stepList(made.steps.slice(0, 6)) : null,
      made.terms.length ? termTable(made, t("terms.caption"), `terms-${c.node.id}-${c.tensor}`, 6) : null,
      h("p", {}, h("a", { class: "quiet", href: `#/network/${cellKey(c)}` }, t("tour.open")))));
}

// One step of plain gradient descent on this image, with a rate at which the loss falls.
function tourStep() {
  const { values } = floatChain(), before = lossOf(values);
  if (tour.step?.values === values) return tour.step;
  let rate = 0.1, made = descend(rate, null);
  for (let k = 0; k < 8 && !(made.actual < 0); k++) made = descend((rate /= 3), null);
  tour.step = { values, rate: made.rate, before, after: before + made.actual, p: softmaxOf(made.z).p };
  return tour.step;
}

function updateSum(station) {
  const c = station.cell, g = valueAt(cell(c.node, "d" + c.tensor, c.index)), w = valueAt(c), { rate } = tourStep();
  const settings = { method: "sgd", lr: rate, momentum: 0, nesterov: false, decay: 0 };
  return h("article", { class: "sum-card" }, h("p", { class: "sum-head" }, h("span", { class: "symbol" }, `${cellTitle(c)} · ${nodeTitle(c.node)}`)),
    termLines([["lr", rate], ...updateTerms(w, g, {}, settings, false, 1)]),
    h("p", { class: "fine" }, t("tour.update.all", stationValues(station))),
    samples ? h("p", {}, h("a", { class: "quiet", href: "#/train" }, t("tour.totrain"))) : null);
}

const termLines = (terms) => h("dl", { class: "result" }, terms.flatMap(([name, value]) => [h("dt", {}, name), h("dd", { class: `num ${signClass(value)}`, "data-value": String(value) }, signed(value, 6))]));

function againSum() {
  const { rate, before, after } = tourStep();
  return h("article", { class: "sum-card" }, h("dl", { class: "result" },
    h("dt", {}, "lr"), h("dd", { class: "num" }, number(rate, 3)), h("dt", {}, t("tour.before")), h("dd", { class: "num", id: "tour-before", "data-value": String(before) }, number(before, 6)),
    h("dt", {}, t("tour.after")), h("dd", { class: "num", id: "tour-after", "data-value": String(after) }, number(after, 6))),
  h("p", {}, t("tour.loop")), samples ? h("p", {}, h("a", { class: "button main", href: "#/train" }, t("tour.totrain"))) : null);
}

// Arrow keys anywhere but in a control that uses them.
function tourKey(event) {
  if (place.view !== "tour" || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.closest?.("input, select, textarea, canvas.map, [role=tablist], .scroll, pre")) return;
  const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  goStation(tour.at + by, by > 0 ? "tour-next" : "tour-back");
}

// A swipe sideways, unless it scrolls something.
function tourTouch(event) {
  const { clientX: x, clientY: y } = event.changedTouches[0];
  if (event.type === "touchstart") return void (tour.touch = event.target.closest(".scroll, .mapbox, .math, pre, input") ? null : [x, y]);
  if (!tour.touch) return;
  const [fromX, fromY] = tour.touch;
  if (Math.abs(x - fromX) > 60 && Math.abs(y - fromY) < 45) goStation(tour.at + (x < fromX ? 1 : -1));
}
