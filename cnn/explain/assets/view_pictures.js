// Pictures: which pixels move a class's logit (saliency), which regions speak for it (Grad-CAM), the first filters.

const gallery = { label: null, layer: null };

// The image as it looked before normalisation, as a canvas of its own size; `paint(k)` may replace a pixel's colour.
function imageCanvas(paint = null) {
  const input = nodes[0], [C, H, W] = input.shape, x = input.tensors.y.data, { mean, std } = manifest.about;
  const canvas = h("canvas", {}), pen = canvas.getContext("2d");
  canvas.width = W;
  canvas.height = H;
  const picture = pen.createImageData(W, H);
  for (let k = 0; k < H * W; k++) {
    const rgb = paint ? paint(k) : [0, 1, 2].map((c) => {
      const channel = C === 3 ? c : 0;
      return 255 * (x[channel * H * W + k] * (std[channel] ?? 1) + (mean[channel] ?? 0));
    });
    picture.data.set([...rgb.map((v) => Math.max(0, Math.min(255, Math.round(v)))), 255], 4 * k);
  }
  pen.putImageData(picture, 0, 0);
  return canvas;
}

function shown(canvas, label, smooth = null) {
  const size = 224, big = h("canvas", { class: "picture", role: "img", "aria-label": label }), pen = big.getContext("2d");
  const scale = size / Math.max(canvas.width, canvas.height);
  big.width = canvas.width * scale;
  big.height = canvas.height * scale;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(canvas, 0, 0, big.width, big.height);
  if (smooth) {
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.globalAlpha = 0.72;
    pen.drawImage(smooth, 0, 0, big.width, big.height);
  }
  return big;
}

// A sequential map that reads the same in grey: dark blue through violet to pale yellow.
function heat(share) {
  const stops = [[13, 22, 56], [86, 38, 120], [190, 55, 84], [245, 140, 60], [252, 246, 190]];
  const at = Math.max(0, Math.min(1, share)) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(at));
  return stops[k].map((v, c) => v + (stops[k + 1][c] - v) * (at - k));
}

// |∂z/∂x|, the largest over the channels of each pixel.
function saliency(logit) {
  const [C, H, W] = nodes[0].shape, dx = logitGradients(logit)[0];
  return Float64Array.from({ length: H * W }, (_, k) => {
    let best = 0;
    for (let c = 0; c < C; c++) best = Math.max(best, Math.abs(dx[c * H * W + k]));
    return best;
  });
}

// ReLU(Σ_k α_k A_k) with α_k the mean of ∂z/∂A_k over the map (Selvaraju et al., arXiv:1610.02391).
function gradCam(node, logit) {
  const [C, H, W] = node.shape, a = floatChain().values[node.id], da = logitGradients(logit)[node.id];
  const map = new Float64Array(H * W), alphas = channelSums(da, C).map((v) => v / (H * W));
  for (let c = 0; c < C; c++) for (let k = 0; k < H * W; k++) map[k] += alphas[c] * a[c * H * W + k];
  return { map: map.map((v) => Math.max(0, v)), alphas };
}

function heatCanvas(values, H, W) {
  const canvas = h("canvas", {}), pen = canvas.getContext("2d"), max = Math.max(...values, 1e-300);
  canvas.width = W;
  canvas.height = H;
  const picture = pen.createImageData(W, H);
  values.forEach((v, k) => picture.data.set([...heat(v / max).map(Math.round), 255], 4 * k));
  pen.putImageData(picture, 0, 0);
  return canvas;
}

function renderPictures() {
  gallery.label ??= statisticsOf(nodes[lossNode.inputs[0]].tensors.y.data).maxAt;
  const key = `logit ${gallery.label}`;
  function* steps() {
    if (!chains.has(null)) yield* chainSteps(null);
    chains.set(key, (yield* backwardSteps(chains.get(null).values, { logit: gallery.label })).dys);
  }
  return renderWhenReady(() => chains.has(key), steps, drawPictures);
}

function drawPictures() {
  const z = nodes[lossNode.inputs[0]].tensors.y.data, maps3d = nodes.filter((n) => n.kind !== "Input" && n.shape.length === 3 && n.shape[1] * n.shape[2] > 1);
  // The last layer that still has a map, by default: the usual choice.
  gallery.layer ??= maps3d.filter((n) => /Conv|ReLU|Add|Norm|GELU|SiLU/.test(n.kind)).at(-1) ?? maps3d.at(-1) ?? null;
  const again = (id) => {
    byId("content").replaceChildren(renderPictures());
      byId(id).focus();
  };
  const classes = h("select", { id: "cam-class", onchange: (event) => ((gallery.label = Number(event.target.value)), again("cam-class")) },
    [...z.keys()].map((k) => h("option", { value: k, selected: k === gallery.label }, className(k))));
  const layersList = h("select", { id: "cam-layer", onchange: (event) => ((gallery.layer = nodes[Number(event.target.value)]), again("cam-layer")) },
    maps3d.map((n) => h("option", { value: n.id, selected: n === gallery.layer }, nodeTitle(n))));
  const [, H, W] = nodes[0].shape, name = className(gallery.label), figures = [];
  const figure = (canvas, title, text) => figures.push(h("figure", { class: "plate" }, canvas, h("figcaption", {}, h("strong", {}, title), h("span", {}, text))));
  figure(shown(imageCanvas(), t("pictures.image")), t("pictures.image"), manifest.about.source ?? "");
  figure(shown(heatCanvas(saliency(gallery.label), H, W), t("pictures.saliency")), t("pictures.saliency"), t("pictures.saliency.text", { name }));
  if (gallery.layer) {
    const { map } = gradCam(gallery.layer, gallery.label), [, h0, w0] = gallery.layer.shape;
    figure(shown(imageCanvas(), t("pictures.cam"), heatCanvas(map, h0, w0)), t("pictures.cam"),
      map.some((v) => v > 0) ? t("pictures.cam.text", { name, layer: nodeTitle(gallery.layer) }) : t("pictures.cam.none", { name }));
  }
  const first = nodes.find((node) => node.kind === "Conv2d");
  return h("section", { class: "sheet" }, h("div", { class: "sheet-head" }, h("h2", {}, t("pictures.title"))),
    h("p", { class: "lead" }, t("pictures.lead")),
    h("div", { class: "form" }, h("div", {}, h("label", { for: "cam-class" }, t("pictures.class")), classes),
      gallery.layer ? h("div", {}, h("label", { for: "cam-layer" }, t("pictures.layer")), layersList) : null),
    h("div", { class: "plates" }, figures),
    gallery.layer ? camSum(gallery.layer, gallery.label) : null,
    first ? h("div", {}, h("h3", {}, t("pictures.filters", { layer: nodeTitle(first) })), h("p", { class: "fine" }, t("pictures.filters.text")),
      first.stored.weight.shape[1] === 3 ? colourFilters(first) : mapHolder(first, "weight", { cellSize: 16 })) : null);
}

// Filters on three channels, as colour tiles: grey is zero. A click opens the largest of the three weights under it.
function colourFilters(node) {
  const [K, , kh, kw] = node.stored.weight.shape, w = node.tensors.weight.data, size = statisticsOf(w).size || 1, plane = kh * kw;
  const largest = (k, places) => places.flatMap((q) => [0, 1, 2].map((c) => (k * 3 + c) * plane + q)).reduce((a, b) => (Math.abs(w[b]) > Math.abs(w[a]) ? b : a));
  return h("div", { class: "filters" }, Array.from({ length: Math.min(K, 96) }, (_, k) => {
    const tile = h("canvas", { class: "filter" }), pen = tile.getContext("2d");
    tile.width = kw;
    tile.height = kh;
    const picture = pen.createImageData(kw, kh);
    for (let q = 0; q < plane; q++) picture.data.set([0, 1, 2].map((c) => Math.round(127.5 + (127.5 * w[(k * 3 + c) * plane + q]) / size)).concat(255), 4 * q);
    pen.putImageData(picture, 0, 0);
    return h("button", { class: "filter-button", "aria-label": t("pictures.filter", { k }), onclick: (event) => {
      const box = tile.getBoundingClientRect(), column = Math.floor(((event.clientX - box.left) / box.width) * kw), row = Math.floor(((event.clientY - box.top) / box.height) * kh);
      const pointed = event.detail > 0 && column >= 0 && column < kw && row >= 0 && row < kh; // by keyboard: the largest of all
      openCell(cell(node, "weight", largest(k, pointed ? [row * kw + column] : [...Array(plane).keys()])), event.detail === 0);
    } }, tile);
  }));
}
