// What else belongs to a number or a map: the part of the image that a number depends on, and histograms.

// The rows and columns of the image that reach a cell of node: [[top, bottom], [left, right]], inclusive and clipped.
function receptiveField(node, rows, columns) {
  if (node.kind === "Input") return [rows, columns];
  const whole = (shape) => (shape.length === 3 ? [[0, shape[1] - 1], [0, shape[2] - 1]] : [[0, 0], [0, 0]]);
  const { kernel_size: k, stride: s, padding, dilation: d = [1, 1] } = node.attrs, windowed = k && node.shape.length === 3;
  const fields = node.inputs.map((id, slot) => {
    const shape = node.inShapes[slot], all = whole(shape);
    if (!windowed) return receptiveField(nodes[id], ...(node.shape.length === 3 && shape.length === 3 && !node.kind.startsWith("Global") && !(mixesImage(node) && node.attrs.training) ? [rows, columns] : all));
    const reach = [rows, columns].map(([low, high], axis) => {
      const before = padding[axis][0], limit = shape[axis + 1] - 1;
      const [from, to] = node.kind === "ConvTranspose2d"
        ? [Math.ceil((low + before - d[axis] * (k[axis] - 1)) / s[axis]), Math.floor((high + before) / s[axis])]
        : [low * s[axis] - before, high * s[axis] - before + d[axis] * (k[axis] - 1)];
      return [Math.max(0, from), Math.min(limit, to)];
    });
    return receptiveField(nodes[id], ...reach);
  });
  return [0, 1].map((axis) => [Math.min(...fields.map((f) => f[axis][0])), Math.max(...fields.map((f) => f[axis][1]))]);
}

function fieldBlock(c) {
  if (c.tensor !== "y" || c.node.kind === "Input" || c.node === lossNode || nodes[0].shape.length !== 3) return null;
  const at = positionOf(c), [rows, columns] = at.length === 3 ? receptiveField(c.node, [at[1], at[1]], [at[2], at[2]]) : receptiveField(c.node, [0, 0], [0, 0]);
  const canvas = imageCanvas(), big = h("canvas", { width: canvas.width * 4, height: canvas.height * 4 }), pen = big.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(canvas, 0, 0, big.width, big.height);
  pen.strokeStyle = palettes.dark.pos.reduce((text, v) => `${text}${text.endsWith("(") ? "" : ","}${v}`, "rgb(") + ")";
  pen.lineWidth = 4;
  pen.strokeRect(columns[0] * 4 + 2, rows[0] * 4 + 2, (columns[1] - columns[0] + 1) * 4 - 4, (rows[1] - rows[0] + 1) * 4 - 4);
  return h("div", { class: "field", id: "field", "data-field": [...rows, ...columns].join(",") }, big,
    h("p", {}, t("field.text", { rows: `${rows[0]}–${rows[1]}`, columns: `${columns[0]}–${columns[1]}`, size: `${rows[1] - rows[0] + 1} × ${columns[1] - columns[0] + 1}` })));
}

// How the values of a tensor are spread: 41 bins around 0, heights on a square-root scale.
function histogram(values, label) {
  const { size } = statisticsOf(values), bins = new Array(41).fill(0);
  if (!(size > 0) || values.length < 8) return null;
  for (const v of values) bins[Math.max(0, Math.min(40, Math.round(((v / size) * 20) + 20)))] += 1;
  const most = Math.sqrt(Math.max(...bins)), width = 246, high = 34;
  return s("svg", { class: "histogram", viewBox: `0 0 ${width} ${high + 12}`, width, height: high + 12, role: "img", "aria-label": t("histogram.label", { what: label, size: number(size, 3) }) },
    bins.map((n, k) => n ? s("rect", { class: k > 20 ? "pos" : k < 20 ? "neg" : "", x: k * 6, y: high - Math.max(1, (high * Math.sqrt(n)) / most), width: 5, height: Math.max(1, (high * Math.sqrt(n)) / most) }) : null),
    [["start", 0, -size], ["middle", 123, 0], ["end", width, size]].map(([anchor, x, value]) => s("text", { class: "tick small", x, y: high + 11, "text-anchor": anchor }, number(value, 2))));
}

// Grad-CAM at its strongest place: the sum over channels of α_k · A_k[i, j], each α_k the mean of ∂z/∂A_k.
function camSum(node, logit) {
  const { alphas } = gradCam(node, logit), plane = sizeOf(node.shape.slice(1)), raw = new Float64Array(plane), a = node.tensors.y.data;
  for (let k = 0; k < alphas.length; k++) for (let q = 0; q < plane; q++) raw[q] += alphas[k] * a[k * plane + q];
  const { maxAt } = statisticsOf(raw), at = unravel(maxAt, node.shape.slice(1)).join(", ");
  const terms = [...alphas].map((alpha, k) => product(constant(`α[${k}]`, alpha), factor(node, "y", k * plane + maxAt, "A")));
  return h("div", { class: "cam-sum" }, h("h3", {}, t("cam.title")), h("p", { class: "fine" }, t("cam.text", { name: className(logit), at, n: plane })),
    h("p", { class: "indexed" }, `cam[${at}] = max(0, Σ α[k] · A[k, ${at}]) = ${number(Math.max(0, raw[maxAt]), 5)}`),
    termTable(sumOf(null, terms), t("terms.caption"), "cam-terms", 8));
}
