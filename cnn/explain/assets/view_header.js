// The heading: what this page is, where to begin, the network at a glance, the mode, and whether the numbers agree.

function renderHeader() {
  return h("header", { class: "top", id: "top" },
    h("div", { class: "masthead" },
      h("div", {}, h("p", { class: "eyebrow" }, t("page.eyebrow")), h("h1", {}, manifest.title)),
      h("div", { class: "controls" },
        h("button", { id: "language", class: "quiet", lang: app.language === "en" ? "zh-CN" : "en", onclick: () => setLanguage(app.language === "en" ? "zh" : "en") }, app.language === "en" ? "中文" : "English"),
        h("button", { id: "theme", class: "quiet", onclick: () => setTheme(app.theme === "light" ? "dark" : "light") }, t(app.theme === "light" ? "theme.dark" : "theme.light")))),
    h("div", { class: "welcome" },
      h("p", { class: "what" }, t(otherLoss ? "page.what.other" : "page.what")),
      isBatch || fixedPage || otherLoss ? null : h("p", { class: "begin" },
        h("a", { class: "button main", id: "begin", href: "#tour=pixel" }, t("page.begin", { n: stations().length })),
        samples ? h("a", { class: "button", href: "#/train" }, t("page.train")) : null)),
    h("div", { id: "summary" }, renderSummary()),
    otherLoss ? null : renderQuestions(), // they are about a classifier
    h("p", { id: "banner", class: "banner", role: "status" }));
}

function verdictText() {
  if (otherLoss) return toldText();
  const best = statisticsOf(lossNode.tensors.p.data).maxAt, values = { guess: className(best), truth: className(live.label) };
  if (!live.known) return t("page.unknown", values);
  return t(best === live.label ? "page.right" : "page.wrong", values);
}

// All that changes with the numbers shown.
function renderSummary() {
  const fixed = fixedPage ? [h("p", { class: "remark", id: "fixed", role: "note" }, t("remark.valuesonly", { kinds: [...new Set(nodes.filter((node) => node.values_only).map((node) => node.kind))].join(", ") }))] : [];
  const remarks = isStored() || !live.image ? (about.remarks ?? []) : [];
  return [
    fixed,
    remarks.map((name) => h("p", { class: "remark", role: "note" }, t(`remark.${name}`))),
    renderGlance(),
    fixedPage ? null : renderState(),
    isStored() ? null : h("p", { class: "ribbon", id: "ribbon" }, h("span", {}, t("live.ribbon"), " ", changesText()), " ",
      h("button", { class: "quiet", id: "restore", onclick: () => restoreStored("begin") }, t("live.restore"))),
  ].flat().filter(Boolean);
}

function changesText() {
  const found = [];
  if (live.image) found.push(t("live.changed.image"));
  if (live.parameters) found.push(live.moment !== null ? t("live.changed.moment", { n: live.moment }) : live.steps ? t("live.changed.steps", { n: live.steps }) : t("live.changed.weights"));
  if (live.label !== about.label) found.push(t("live.changed.label"));
  if (live.training !== (about.training ?? false)) found.push(t("live.changed.mode"));
  if (live.smoothing) found.push(t("live.changed.smoothing"));
  return `${new Intl.ListFormat(app.language, { type: "unit" }).format(found)}${t("live.end")}`;
}

// The images of a batch: one is shown, all are in every gradient of a parameter.
function renderBatch() {
  const choose = (n) => {
    bindImage(n);
    live.label = about.labels[n];
    chains.clear();
    refreshPage(`image-${n}`);
  };
  const before = shownImage.n, buttons = about.labels.map((label, n) => {
    bindImage(n);
    const picture = imageCanvas(), best = statisticsOf(lossNode.tensors.p.data).maxAt;
    return h("li", {}, h("button", { id: `image-${n}`, class: n === before ? "held" : "", "aria-pressed": String(n === before), "aria-label": t("batch.image", { n, name: className(label), guess: className(best) }), title: className(label), onclick: () => choose(n) }, picture));
  });
  bindImage(before);
  return h("div", { class: "state samples" }, h("p", {}, t(about.training ? "batch.training" : "batch.prediction", { n: batchSize })), h("ol", {}, buttons),
    h("p", { class: "fine" }, t("batch.shown", { n: before, source: about.sources[before] }), " · ", about.backend ?? ""));
}

// The mode, the target, and where the image comes from.
function renderState() {
  if (isBatch) return renderBatch();
  const classes = [...lossNode.tensors.p.data.keys()];
  const target = h("select", { id: "target", onchange: (event) => setLive({ label: Number(event.target.value), known: true }, "target") },
    classes.map((k) => h("option", { value: k, selected: k === live.label }, className(k))));
  const mode = (training) => h("button", { id: training ? "mode-training" : "mode-prediction", "aria-pressed": String(live.training === training), onclick: () => setMode(training, training ? "mode-training" : "mode-prediction") }, t(training ? "mode.training" : "mode.prediction"));
  const smooth = about.smoothing ? h("label", { class: "toggle" }, h("input", { type: "checkbox", id: "smoothing", checked: live.smoothing > 0, onchange: (event) => setSmoothing(event.target.checked, "smoothing") }),
    t("mode.smoothing", { s: about.smoothing })) : null;
  const why = live.smoothing ? t("mode.smoothing.why", { s: live.smoothing, high: number(1 - live.smoothing + live.smoothing / classes.length, 3), low: number(live.smoothing / classes.length, 3) })
    : otherLoss ? t(!hasModes ? "mode.other.same" : live.training ? "mode.other.training" : "mode.other.prediction")
    : !hasModes ? t("mode.same") : t(live.training ? "mode.training.why" : "mode.prediction.why");
  return h("div", { class: "state" },
    h("div", { class: "state-line" },
      h("div", { class: "switch small", role: "group", "aria-label": t("mode.label") }, mode(false), mode(true)), smooth,
      otherLoss ? null : h("span", { class: "target" }, h("label", { for: "target" }, t(live.known ? "page.truth" : "page.target")), target),
      h("span", { class: "source" }, live.image ? t("live.own") : about.source ?? "", " · ", about.backend ?? "")),
    h("p", { class: "fine", id: "mode-why" }, why));
}

function showBanner() {
  const banner = byId("banner");
  if (!verdict) {
    banner.textContent = t("banner.working");
    return;
  }
  const fault = verdict.fault;
  banner.dataset.state = fault ? "bad" : "good";
  if (!fault) {
    banner.replaceChildren(h("strong", {}, `✓ ${t("banner.good", { n: verdict.count.toLocaleString("en") })}`), " ",
      h("span", {}, t("banner.detail", { error: number(verdict.error, 2), loss: number(verdict.loss, 7), stored: number(storedTensors[lossNode.id].y.data[0], 7) })));
    return;
  }
  const owner = fault.blamed ?? fault.node, what = { layer: nodeTitle(owner), tensor: tensorTitle(fault.node, fault.tensor) };
  banner.dataset.layer = owner.name;
  if (fault.reason === "bytes") banner.replaceChildren(h("strong", {}, `✗ ${t("banner.bytes", what)}`));
  else {
    const c = cell(fault.node, fault.tensor, fault.at);
    banner.replaceChildren(h("strong", {}, `✗ ${t("banner.bad", what)}`), " ",
      h("a", { href: `#/network/${cellKey(c)}` }, t("banner.example", { cell: cellTitle(c), stored: signed(fault.stored), computed: signed(fault.computed) })));
  }
}

// After a change of the numbers: the summary and the view anew; the focus returns to the control named.
function refreshPage(focus = null) {
  byId("summary").replaceChildren(...renderSummary());
  lightGlance();
  if (place.view === "train" && byId("train")) updateTrain();
  else if (place.view === "history" && byId("history")) updateHistory();
  else {
    const top = scrollY;
    showView();
    reopen();
    scrollTo({ top, behavior: "instant" });
  }
  if (focus) byId(focus)?.focus({ preventScroll: true });
}
