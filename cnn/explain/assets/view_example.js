// The worked example: five classes whose logits and labels can be changed, and p − y through the Jacobian of softmax.

const exampleStart = { p: [0.1, 0.2, 0.25, 0.4, 0.05], y: [0, 0, 1, 0, 0] };
const example = { z: exampleStart.p.map(Math.log), y: [...exampleStart.y] };

// 0.1 + 0.2 − 0.3 is not 0 in binary: what is shown is rounded to 12 digits.
const round = (value) => Number(value.toPrecision(12));
const subscript = (n) => String(n).replace(/\d/g, (d) => "₀₁₂₃₄₅₆₇₈₉"[d]);

// Everything that follows from z and y: p, −y/p, the Jacobian, its product and the short formulas.
function exampleNumbers({ z, y }) {
  const p = Array.from(softmaxOf(z).p, round), mass = round(y.reduce((a, b) => a + b, 0));
  const jacobian = p.map((pk, k) => p.map((pi, i) => pk * ((k === i ? 1 : 0) - pi)));
  const upstream = p.map((pk, k) => (y[k] ? -y[k] / pk : 0));
  const result = p.map((_, i) => jacobian.reduce((sum, row, k) => sum + (upstream[k] ? upstream[k] * row[i] : 0), 0));
  return { p, y, mass, jacobian, upstream, result };
}

function exampleTable(caption, ...rows) {
  return [h("h3", { class: "over" }, caption),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, h("table", { class: "vectors" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, t("loss.class")), example.z.map((_, k) => h("th", { scope: "col" }, String(k))))),
      h("tbody", {}, rows)))];
}

const exampleVector = (label, values, id, plus = true) => h("tr", { id }, h("th", { scope: "row" }, label),
  values.map((v) => h("td", {}, plus ? plainNumber(round(v)) : h("span", { class: "num", "data-value": String(v) }, number(v)))));

function exampleSteps() {
  const { p, y, mass, jacobian, upstream, result } = exampleNumbers(example), rows = [...upstream.keys()].filter((k) => upstream[k]);
  const only = rows.length === 1 ? rows[0] : null, same = Math.abs(mass - 1) < 1e-9;
  return [
    ...exampleTable(t("example.start"), exampleVector("p", p, "example-p", false), exampleVector("y", y, "example-y", false), exampleVector("−y / p", upstream, "example-upstream")),
    ...exampleTable(t("example.jacobian"), ...jacobian.map((row, k) => h("tr", { class: upstream[k] ? "truth" : null }, h("th", { scope: "row" }, `∂p${subscript(k)}/∂z`),
      row.map((v) => h("td", {}, plainNumber(round(v))))))),
    only === null ? h("p", {}, t("example.several", { n: rows.length })) : h("p", {}, t("example.product", { k: only, u: signed(round(upstream[only])) })),
    only === null ? null : h("p", { class: "num working" }, result.map((v, i) => h("span", { class: "chip" }, `${signed(round(upstream[only]))} × ${signed(round(jacobian[only][i]))} = ${signed(round(v))}`))),
    ...exampleTable(t("example.result"), exampleVector("∂L/∂z", result, "example-result"), exampleVector("p − y", p.map((v, k) => v - y[k]), "example-difference"),
      same ? null : exampleVector("p · Σy − y", p.map((v, k) => v * mass - y[k]), "example-general")),
    h("p", { id: "example-verdict", class: same ? "fine" : "note" }, same ? t("example.same") : t("example.unequal", { mass: number(mass) })),
  ].filter(Boolean);
}

function lossOfExample() {
  const steps = h("div", {}, exampleSteps()), inputs = { z: [], y: [] };
  const changed = () => steps.replaceChildren(...exampleSteps());
  const field = (name, k) => (inputs[name][k] = h("input", {
    type: "number", step: "any", value: Number(example[name][k].toPrecision(4)), "aria-label": `${name}[${k}]`, id: `example-${name}-${k}`,
    oninput: (event) => {
      if (!event.target.checkValidity() || event.target.value === "") return;
      example[name][k] = Number(event.target.value);
      changed();
    }, min: name === "y" ? 0 : -1000, max: name === "y" ? 100 : 1000,
  }));
  const set = (z, y) => {
    Object.assign(example, { z: [...z], y: [...y] });
    for (const name of ["z", "y"]) inputs[name].forEach((input, k) => (input.value = Number(example[name][k].toPrecision(4))));
    changed();
  };
  const row = (name, label) => h("tr", {}, h("th", { scope: "row" }, label), example.z.map((_, k) => h("td", {}, field(name, k))));
  const target = example.y.findIndex((v) => v === 1 && example.y.every((w) => w === 0 || w === v));
  const choose = h("select", { id: "example-class", onchange: (event) => set(example.z, example.y.map((_, k) => (k === Number(event.target.value) ? 1 : 0))) },
    example.y.map((_, k) => h("option", { value: k, selected: k === target }, t("example.class", { k }))));
  return [
    h("p", { class: "lead" }, t("example.lead")),
    h("p", {}, h("label", { for: "example-class" }, t("example.choose"), " "), choose, " ",
      h("button", { class: "quiet", id: "example-reset", onclick: () => set(exampleStart.p.map(Math.log), exampleStart.y) }, t("example.reset")), " ",
      h("button", { class: "quiet", id: "example-two", onclick: () => set(example.z, [0, 0, 1, 1, 0]) }, t("example.two"))),
    ...exampleTable(t("example.edit"), row("z", "z"), row("y", "y")),
    steps,
  ];
}
