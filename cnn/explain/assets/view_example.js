// The worked example: five classes, the Jacobian of softmax in full, and p − y; z and y can be changed.

const example = { z: null, p: [0.1, 0.2, 0.25, 0.4, 0.05], y: [0, 0, 1, 0, 0] };

function lossOfExample() {
  const { p, y } = example, z = example.z ?? p.map((v) => Math.log(v) - Math.log(p[4])), names = p.map((_, k) => t("example.class", { k }));
  const jacobian = p.map((pi, i) => p.map((pj, j) => pi * ((i === j ? 1 : 0) - pj)));
  const upstream = p.map((pk, k) => (y[k] ? -y[k] / pk : 0)), mass = y.reduce((a, b) => a + b, 0);
  const result = p.map((_, j) => jacobian.reduce((sum, row, i) => sum + upstream[i] * row[j], 0));
  const oneHot = y.filter((v) => v !== 0).length === 1 && mass === 1, target = y.indexOf(1);
  const again = (id) => {
    byId("content").replaceChildren(renderLoss());
    byId(id).focus();
  };
  const choose = h("select", { id: "example-class", onchange: (event) => {
    example.y = p.map((_, k) => (k === Number(event.target.value) ? 1 : 0));
    again("example-class");
  } }, oneHot ? null : h("option", { value: "", selected: true }, t("example.own")), names.map((name, k) => h("option", { value: k, selected: oneHot && k === target }, name)));
  const vector = (label, values, id, plus = true) => h("tr", { id }, h("th", { scope: "row" }, label),
    values.map((v) => h("td", {}, plus ? plainNumber(round(v)) : h("span", { class: "num", "data-value": String(v) }, number(v)))));
  const editable = (label, values, name, set) => h("tr", { id: `example-${name}` }, h("th", { scope: "row" }, label), values.map((v, k) => h("td", {}, h("input", {
    type: "number", step: "any", id: `example-${name}-${k}`, value: String(Number(v.toPrecision(4))), "data-value": String(v), "aria-label": t("example.edit", { name, k }), onchange: (event) => {
      const value = Number(event.target.value);
      if (event.target.value !== "" && Number.isFinite(value)) set(values.map((old, i) => (i === k ? value : old)));
      again(`example-${name}-${k}`);
    },
  }))));
  const table = (caption, ...rows) => [h("h3", { class: "over" }, caption),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, h("table", { class: "vectors" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("loss.class")), p.map((_, k) => h("th", { scope: "col" }, String(k))))),
      h("tbody", {}, rows)))];
  const broken = result.some((v) => !Number.isFinite(v));
  return [
    h("p", { class: "lead" }, t("example.lead")),
    h("div", { class: "tools" }, h("label", { for: "example-class" }, t("example.choose")), choose,
      h("button", { class: "quiet", id: "example-two", onclick: () => ((example.y = [0, 0, 1, 1, 0]), again("example-two")) }, t("example.two")),
      h("button", { class: "quiet", id: "example-reset", onclick: () => (Object.assign(example, { z: null, p: [0.1, 0.2, 0.25, 0.4, 0.05], y: [0, 0, 1, 0, 0] }), again("example-reset")) }, t("example.reset"))),
    ...table(t("example.start"), editable("z", z, "z", (values) => Object.assign(example, { z: values, p: [...softmaxOf(values).p] })), vector("p", p, "example-p", false),
      editable("y", y, "y", (values) => (example.y = values)), vector("−y / p", upstream, "example-upstream")),
    ...table(t("example.jacobian"), ...jacobian.map((row, i) => h("tr", { class: y[i] ? "truth" : null }, h("th", { scope: "row" }, `∂p${subscript(i)}/∂z`),
      row.map((v) => h("td", {}, plainNumber(round(v))))))),
    oneHot ? [h("p", {}, t("example.product", { k: target, u: signed(round(upstream[target])) })),
      h("p", { class: "num working" }, result.map((v, j) => h("span", { class: "chip" }, `${signed(round(upstream[target]))} × ${signed(round(jacobian[target][j]))} = ${signed(round(v))}`)))] : null,
    ...table(t("example.result"), vector("∂L/∂z", result, "example-result"), mass === 1 ? null : vector("p · Σy − y", p.map((v, k) => v * mass - y[k]), "example-mass"), vector("p − y", p.map((v, k) => v - y[k]), "example-difference")),
    h("p", { class: broken || mass !== 1 ? "note" : "fine", id: "example-note" }, broken ? t("example.nan") : mass === 1 ? t("example.same") : t("example.sum", { sum: number(mass) })),
  ].flat().filter(Boolean);
}
