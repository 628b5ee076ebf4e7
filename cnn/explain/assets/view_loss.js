// The loss card: from logits to p − y for this image, and the worked example with the Jacobian of softmax.

const example = { p: [0.1, 0.2, 0.25, 0.4, 0.05], target: 2 };
const lossState = { tab: "image" };

function tabList(label, names, current, choose, titleOf) {
  const buttons = names.map((name) => h("button", {
    role: "tab", id: `tab-${name}`, "aria-selected": String(name === current), tabindex: name === current ? 0 : -1, onclick: () => choose(name),
  }, titleOf(name)));
  return h("div", {
    role: "tablist", class: "tabs", "aria-label": label,
    onkeydown: (event) => {
      const at = names.indexOf(current), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      choose(names[(at + step + names.length) % names.length]);
      byId(`tab-${names[(at + step + names.length) % names.length]}`)?.focus();
    },
  }, buttons);
}

function renderLoss() {
  const choose = (tab) => {
    lossState.tab = tab;
    byId("content").replaceChildren(renderLoss());
    byId(`tab-${tab}`).focus();
  };
  return h("section", { class: "sheet", id: "losscard" },
    h("div", { class: "sheet-head" }, h("h2", {}, t("loss.title")),
      tabList(t("loss.title"), ["image", "example"], lossState.tab, choose, (tab) => t(`loss.tab.${tab}`))),
    h("div", { role: "tabpanel", "aria-labelledby": `tab-${lossState.tab}`, tabindex: 0 }, lossState.tab === "image" ? lossOfImage() : lossOfExample()),
    h("div", { class: "prose" }, renderDerivation(lossNode)));
}

const plainNumber = (value, digits = 4, id = null) => h("span", { class: `num ${signClass(value)}`, "data-value": String(value), id }, signed(value, digits));

function lossOfImage() {
  const before = nodes[lossNode.inputs[0]], z = before.tensors.y.data, { p, max, sum } = softmaxOf(z);
  const target = lossNode.tensors.target.data, order = z.length > 20 ? [...z.keys()].sort((a, b) => p[b] - p[a] || a - b) : [...z.keys()];
  const shown = order.filter((k, place) => place < 20 || target[k] > 0.5);
  const head = ["loss.class", "z", "z − max z", "exp(z − max z)", "p", "y", "(p − y) / N"];
  const rows = shown.map((k) => h("tr", { class: target[k] > 0.5 ? "truth" : null, "data-class": k },
    h("th", { scope: "row" }, className(k), target[k] > 0.5 ? h("span", { class: "badge" }, t("loss.truth")) : null),
    h("td", {}, numberButton(cell(before, "y", k))),
    h("td", {}, plainNumber(z[k] - max)),
    h("td", { class: "num" }, number(Math.exp(z[k] - max))),
    h("td", {}, numberButton(cell(lossNode, "p", k))),
    h("td", {}, number(target[k])),
    h("td", {}, numberButton(cell(before, "dy", k)))));
  const gradient = before.tensors.dy.data, sumOfGradient = gradient.reduce((a, b) => a + b, 0);
  return [
    h("p", { class: "lead" }, t("loss.lead")),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("loss.title") }, h("table", { class: "losstable", id: "losstable" },
      h("thead", {}, h("tr", {}, head.map((name) => h("th", { scope: "col" }, name.startsWith("loss.") ? t(name) : name)))),
      h("tbody", {}, rows),
      h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "Σ"), h("td", {}), h("td", {}), h("td", { class: "num", id: "sum-exp", "data-value": String(sum) }, number(sum)),
        h("td", { class: "num", id: "sum-p", "data-value": String(p.reduce((a, b) => a + b, 0)) }, number(p.reduce((a, b) => a + b, 0))), h("td", { class: "num" }, number(target.reduce((a, b) => a + b, 0))),
        h("td", { class: "num", id: "sum-gradient", "data-value": String(sumOfGradient) }, signed(sumOfGradient, 2)))))),
    shown.length < z.length ? h("p", { class: "fine" }, t("loss.top", { n: shown.length, all: z.length })) : null,
    h("ul", { class: "facts" },
      h("li", {}, t("loss.value"), " ", numberButton(cell(lossNode, "y", 0), 6), " = −Σ y · log p"),
      h("li", {}, t("loss.n1")),
      h("li", {}, t("loss.zero", { sum: signed(sumOfGradient, 2) }))),
  ].filter(Boolean);
}

function lossOfExample() {
  const { p, target } = example, y = p.map((_, k) => (k === target ? 1 : 0)), names = p.map((_, k) => t("example.class", { k }));
  const jacobian = p.map((pi, i) => p.map((pj, j) => pi * ((i === j ? 1 : 0) - pj)));
  const upstream = p.map((pk, k) => (y[k] ? -1 / pk : 0));
  const result = p.map((_, j) => jacobian.reduce((s, row, i) => s + upstream[i] * row[j], 0));
  const choose = h("select", { id: "example-class", onchange: (event) => {
    example.target = Number(event.target.value);
    byId("content").replaceChildren(renderLoss());
    byId("example-class").focus();
  } }, names.map((name, k) => h("option", { value: k, selected: k === target }, name)));
  const vector = (label, values, id, plus = true) => h("tr", { id }, h("th", { scope: "row" }, label),
    values.map((v) => h("td", {}, plus ? plainNumber(round(v)) : h("span", { class: "num", "data-value": String(v) }, number(v)))));
  const table = (caption, ...rows) => [h("h3", { class: "over" }, caption),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, h("table", { class: "vectors" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("loss.class")), p.map((_, k) => h("th", { scope: "col" }, String(k))))),
      h("tbody", {}, rows)))];
  return [
    h("p", { class: "lead" }, t("example.lead")),
    h("p", {}, h("label", { for: "example-class" }, t("example.choose"), " "), choose),
    ...table(t("example.start"), vector("p", p, "example-p", false), vector("y", y, "example-y", false), vector("−y / p", upstream, "example-upstream")),
    ...table(t("example.jacobian"), ...jacobian.map((row, i) => h("tr", { class: i === target ? "truth" : null }, h("th", { scope: "row" }, `∂p${subscript(i)}/∂z`),
      row.map((v) => h("td", {}, plainNumber(round(v))))))),
    h("p", {}, t("example.product", { k: target, u: signed(round(upstream[target])) })),
    h("p", { class: "num working" }, result.map((v, j) => h("span", { class: "chip" }, `${signed(round(upstream[target]))} × ${signed(round(jacobian[target][j]))} = ${signed(round(v))}`))),
    ...table(t("example.result"), vector("∂L/∂z", result, "example-result"), vector("p − y", p.map((v, k) => v - y[k]), "example-difference")),
    h("p", { class: "fine" }, t("example.same")),
  ];
}

// 0.1 + 0.2 − 0.3 is not 0 in binary: what is shown is rounded to 12 digits.
const round = (value) => Number(value.toPrecision(12));
const subscript = (n) => String(n).replace(/\d/g, (d) => "₀₁₂₃₄₅₆₇₈₉"[d]);
