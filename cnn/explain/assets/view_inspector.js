// "How this number was made": the panel beside the list.

const trail = []; // keys of the cells visited, oldest first
let trailAt = -1;

let focusWanted = false; // a cell opened by keyboard takes the focus along; Escape brings it back to the map

function openCell(c, byKeyboard = false) {
  focusWanted = byKeyboard;
  location.hash = `#/network/${cellKey(c)}`;
}

// Called by the router for #/network/<node>/<tensor>/<position>.
function showCell(c) {
  const key = cellKey(c);
  if (trail[trailAt] !== key) {
    if (trail[trailAt - 1] === key) trailAt -= 1;
    else if (trail[trailAt + 1] === key) trailAt += 1;
    else {
      trail.length = trailAt + 1;
      trail.push(key);
      trailAt = trail.length - 1;
    }
  }
  document.documentElement.dataset.inspecting = "yes"; // before scrolling: it makes room below
  reveal(c);
  const made = explain(c);
  markCells(c, made);
  const panel = byId("inspector"), inside = panel.contains(document.activeElement);
  panel.replaceChildren(...renderInspector(c, made));
  panel.scrollTop = 0;
  if (inside || focusWanted) panel.focus({ preventScroll: true });
  focusWanted = false;
  announce(`${cellTitle(c)}, ${nodeTitle(c.node)} = ${signed(valueAt(c), 5)}`);
}

function leaveInspector(event) {
  if (event.key !== "Escape") return;
  const key = marks.selected?.key, map = (maps.get(key) ?? []).find((one) => one.canvas.isConnected);
  closeInspector();
  (map?.canvas ?? byId("tab-network")).focus();
}

function closeInspector() {
  delete document.documentElement.dataset.inspecting;
  markCells(null, null);
  history.replaceState(null, "", "#/network");
  byId("inspector").replaceChildren(...emptyInspector());
  arrived();
}

function emptyInspector() {
  return [h("h2", {}, t("inspect.title")), h("p", { class: "lead" }, t("inspect.empty")),
    h("ul", { class: "hints" }, ["inspect.hint1", "inspect.hint2", "inspect.hint3"].map((key) => h("li", {}, t(key))))];
}

function renderInspector(c, made) {
  const stored = valueAt(c);
  return [
    h("div", { class: "inspect-top" }, h("h2", { class: "eyebrow" }, t("inspect.title")),
      h("button", { class: "quiet close", onclick: closeInspector, "aria-label": t("inspect.close") }, "✕")),
    renderTrail(),
    h("div", { class: "headline" },
      h("p", { class: "what" }, h("span", { class: "symbol" }, cellTitle(c)), h("span", { class: "of" }, nodeTitle(c.node))),
      h("p", { class: `value ${neverNegative(c) ? "" : signClass(stored)}`, id: "value", "data-value": String(stored) }, numberText(c, stored, 6)),
    ),
    gotoForm(c),
    companions(c),
    isEditable(c) && !isBatch ? editForm(c) : null,
    made.note ? h("p", { class: "note" }, t(made.note, { n: made.count ?? "" })) : null,
    equationOf(made),
    indexedLine(c, made),
    sumPlayer(c, made),
    made.steps?.length ? stepList(made.steps) : null,
    made.terms.length ? termTable(made, t("terms.caption")) : null,
    made.form === "given" ? null : resultLine(made, stored),
    made.own ? h("div", { class: "whatif" }, h("p", {}, t("batch.own", { n: shownImage.n, size: batchSize })), termTable(made.own, t("terms.caption"), "own-terms")) : null,
    made.whatIf ? whatIfBlock(made) : null,
    readersBlock(c),
    fieldBlock(c),
    made.terms.length ? traceBlock(c) : null,
  ].filter(Boolean);
}

function renderTrail() {
  const step = (by, label, sign) => h("button", {
    class: "quiet", "aria-label": label, disabled: !(trailAt + by in trail), onclick: () => openCell(cellFromKey(trail[trailAt + by])),
  }, sign);
  const first = Math.max(0, Math.min(trailAt - 3, trail.length - 5));
  const crumbs = trail.slice(first, first + 5).map((key, k) => {
    const c = cellFromKey(key);
    return h("li", {}, h("a", { href: `#/network/${key}`, "aria-current": first + k === trailAt ? "step" : null }, `${cellTitle(c)}`,
      h("span", { class: "crumb-place" }, c.node.kind === "Input" ? t("node.image") : c.node.kind)));
  });
  return h("nav", { class: "trail", "aria-label": t("trail.label") }, step(-1, t("trail.back"), "←"), step(1, t("trail.forward"), "→"), h("ol", {}, crumbs));
}

function gotoForm(c) {
  const tensor = tensorOf(c.node, c.tensor);
  if (tensor.data.length === 1) return null;
  const field = h("input", { id: "goto", value: positionOf(c).join(", "), inputmode: "numeric", autocomplete: "off", "aria-describedby": "goto-range" });
  const submit = (event) => {
    event.preventDefault();
    const found = cellFromKey(`${c.node.id}/${c.tensor}/${field.value.replace(/\s/g, "")}`);
    field.setAttribute("aria-invalid", String(!found));
    if (found) openCell(found);
    else announce(t("goto.outside", { shape: shapeText(tensor.shape) }));
  };
  // Neighbours, for fingers: cells of a map are smaller than a fingertip.
  const beside = (key, axis, by) => {
    const position = positionOf(c), along = position.length - axis;
    if (along < 0) return null;
    position[along] += by;
    const there = position[along] >= 0 && position[along] < tensor.shape[along];
    return h("button", { class: "quiet nudge", type: "button", disabled: !there, "aria-label": t(`nudge.${key}`), onclick: () => openCell(cell(c.node, c.tensor, ravel(position, tensor.shape))) }, { left: "←", right: "→", up: "↑", down: "↓" }[key]);
  };
  return h("form", { class: "goto", onsubmit: submit }, h("label", { for: "goto" }, t("goto.label")), field,
    h("button", { class: "quiet" }, t("goto.go")), h("span", { class: "range", id: "goto-range" }, t("goto.range", { shape: shapeText(tensor.shape) })),
    h("span", { class: "nudges" }, beside("left", 1, -1), beside("right", 1, 1), beside("up", 2, -1), beside("down", 2, 1)));
}

// A pixel or a weight can be changed here, and everything follows.
function editForm(c) {
  const pixel = c.node.kind === "Input", value = valueAt(c);
  const field = h("input", { id: "edit", type: "number", step: "any", value: String(Number(value.toPrecision(6))) });
  const submit = (event) => {
    event.preventDefault();
    if (field.value !== "" && Number.isFinite(Number(field.value))) editCell(c, Number(field.value), "edit");
  };
  const preset = (key, to) => h("button", { class: "quiet", type: "button", id: key.replaceAll(".", "-"), onclick: () => editCell(c, to, key.replaceAll(".", "-")) }, t(key));
  return h("form", { class: "goto edit", onsubmit: submit }, h("label", { for: "edit" }, t(pixel ? "edit.pixel" : "edit.weight")), field,
    h("button", { class: "quiet", id: "edit-set" }, t("edit.set")),
    pixel ? [preset("edit.dark", normalized(0, channelOf(c))), preset("edit.bright", normalized(1, channelOf(c)))] : [preset("edit.zero", 0), preset("edit.flip", -value)]);
}

// The same place in the other direction: y and its gradient, a weight and its gradient.
function companions(c) {
  const { node, tensor, index } = c, links = [];
  const add = (label, name, to = node, at = index) => {
    const found = tensorOf(to, name);
    if (found) links.push(h("li", {}, `${label} `, h("span", { class: "symbol" }, cellTitle(cell(to, name, at))), " = ", numberButton(cell(to, name, at))));
  };
  if (tensor === "y" && node !== lossNode) add(t("link.gradient"), "dy");
  else if (tensor === "dy" && node !== lossNode) add(t("link.value"), "y");
  else if (tensor.startsWith("dx")) add(t("link.value"), "y", nodes[node.inputs[Number(tensor[2])]]);
  else if (node.parameters.includes(tensor)) add(t("link.gradient"), "d" + tensor);
  else if (tensor.startsWith("d") && node.parameters.includes(tensor.slice(1))) add(t("link.value"), tensor.slice(1));
  else if (tensor === "p") {
    add(t("link.target"), "target");
    add(t("link.difference"), "dy", nodes[node.inputs[0]]);
  } else if (tensor === "target") add(t("link.prediction"), "p");
  if (!links.length) return null;
  return h("ul", { class: "companions" }, links, node.parameters.includes(tensor.replace(/^d(?=weight|bias)/, ""))
    && !fixedPage && !otherLoss ? h("li", {}, h("button", { class: "quiet", onclick: () => testWeight(node, tensor.replace(/^d(?=weight|bias)/, ""), index) }, t("link.test"))) : null);
}

function equationOf(made) {
  const steps = made.equation ? manifest.derivations[made.owner.kind] : null;
  const step = steps?.find((s) => s.id === made.equation);
  if (!step) return null;
  return h("div", { class: "equation" }, h("p", { class: "eyebrow" }, t(`equation.${made.equation}`, { layer: nodeTitle(made.owner) })), mathElement(formulaOf(step, made.owner)));
}

function factorSpan(f) {
  const content = [h("span", { class: "symbol" }, f.symbol), h("span", { class: `num ${signClass(f.value)}` }, signed(f.value))];
  if (!f.cell) return h("span", { class: "factor" }, content);
  return h("a", { class: "factor", href: `#/network/${cellKey(f.cell)}`, "aria-label": `${f.symbol} = ${signed(f.value)}, ${nodeTitle(f.cell.node)}` }, content);
}

function stepList(steps) {
  return h("ul", { class: "made-steps", "aria-label": t("steps.label") }, steps.slice(0, 24).map((f) => h("li", {}, factorSpan(f))));
}

function termTable(made, caption, id = "terms", keep = 50) {
  const { shown, rest } = largestTerms(made.terms, keep), widest = Math.max(...shown.map((term) => Math.abs(term.value)), 1e-300);
  const row = (term) => h("tr", { class: term.wins === true ? "wins" : term.wins === false ? "lost" : null },
    h("td", {}, h("span", { class: "factors" }, term.factors.flatMap((f, k) => (k ? [h("span", { class: "times" }, "×"), factorSpan(f)] : [factorSpan(f)])))),
    h("td", { class: `num ${signClass(term.value)}`, "data-value": String(term.value) }, term.wins === true ? "★ " : "", signed(term.value)),
    h("td", { class: "bar", "aria-hidden": "true" }, weightBar(term.value / widest)));
  const body = shown.map(row);
  if (rest) {
    body.push(h("tr", { class: "others" }, h("td", {}, t("terms.rest", { n: rest.count.toLocaleString("en") })),
      h("td", { class: `num ${signClass(rest.value)}`, "data-value": String(rest.value) }, signed(rest.value)), h("td", { class: "bar" })));
  }
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    h("table", { class: "terms", id }, h("caption", {}, caption, h("span", { class: "count" }, t("terms.count", { n: made.terms.length.toLocaleString("en") }))),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, made.form === "max" ? t("terms.candidate") : t("terms.factors")),
        h("th", { scope: "col" }, t("terms.value")), h("td", {}))),
      h("tbody", {}, body)));
}

// A meter drawn with two elements; its width is set as a property, which the strict policy allows.
function weightBar(share) {
  const bar = h("span", { class: `meter ${signClass(share)}` });
  bar.style.width = `${Math.max(1, Math.abs(share) * 100)}%`;
  return bar;
}

function resultLine(made, stored) {
  const sign = { sum: "Σ", max: "max", copy: "=", function: "f(x)" }[made.form];
  return h("dl", { class: "result" },
    h("dt", {}, t("result.computed", { sign })), h("dd", { class: "num", id: "computed", "data-value": String(made.total) }, signed(made.total, 9)),
    h("dt", {}, t(isStored() ? "result.stored" : "result.live")), h("dd", { class: "num" }, signed(stored, 9)),
    h("dt", {}, t("result.difference")), h("dd", { class: "num" }, number(Math.abs(made.total - stored), 2)));
}

function whatIfBlock(made) {
  const terms = made.whatIf;
  return h("div", { class: "whatif" }, h("p", {}, t("whatif.bn")), termTable({ form: "sum", terms }, t("whatif.caption"), "whatif"),
    h("p", { class: "num" }, "Σ ", signed(total(terms), 6)));
}

function readersBlock(c) {
  const readers = readersOf(c);
  if (!readers.length) return null;
  return h("div", { class: "readers" }, h("p", { class: "eyebrow" }, t("readers.title", { n: readers.length.toLocaleString("en") })),
    h("ul", { class: "made-steps" }, readers.slice(0, 6).map((r) => h("li", {},
      factorSpan({ symbol: `${cellTitle(r)} · ${r.node === lossNode ? "softmax" : r.node.kind}`, value: valueAt(r), cell: r })))));
}

// The way along the largest terms, worked out when it is asked for, with the share of each in the sum it is part of.
function traceBlock(c) {
  const list = h("ol", {}), fill = () => list.replaceChildren(...trace(c).map(({ cell: p, share }) =>
    h("li", {}, h("span", { class: "of" }, nodeTitle(p.node), share === null ? null : h("span", { class: "share" }, t("trace.share", { share: number(100 * share, 3) }))), h("span", { class: "symbol" }, cellTitle(p)), numberButton(p))));
  return h("details", { class: "trace", ontoggle: () => list.childElementCount || fill() },
    h("summary", {}, t(c.tensor.startsWith("d") ? "trace.toloss" : "trace.topixel")), h("p", { class: "lead" }, t("trace.lead")), list);
}
