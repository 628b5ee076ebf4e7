// The loss card: from logits to p − y for this image.

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
  if (otherLoss) return renderOtherLoss();
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

// 0.1 + 0.2 − 0.3 is not 0 in binary: what is shown is rounded to 12 digits.
const round = (value) => Number(value.toPrecision(12));
const subscript = (n) => String(n).replace(/\d/g, (d) => "₀₁₂₃₄₅₆₇₈₉"[d]);
