// The derivation of a layer: its steps from definition to backward pass, with formulas, moving pictures and the code.

// Texts and formulas come as HTML and MathML from the page's own manifest, built from our own files.
function mathElement(markup) {
  const holder = h("div", { class: "math", tabindex: 0, role: "group", "aria-label": t("derivation.formula") });
  holder.innerHTML = markup;
  return holder;
}

function proseElement(markup) {
  const holder = h("p", {});
  holder.innerHTML = markup;
  return holder;
}

// Of normalisation the formulas without bias are those without γ and β.
const hasBias = (node) => Boolean(isNorm(node) ? node.stored.weight : node.stored.bias);

// The formula of a step for this very layer, in the language of the page.
function formulaOf(step, node) {
  const formula = (!hasBias(node) && step.without_bias) || step.math;
  return formula[app.language] ?? formula.en;
}

const animations = { "conv-dx": () => convAnimation("dx"), "conv-dweight": () => convAnimation("dweight") };

// [place in the derivation, step] of what is shown of a layer.
const shownSteps = (node) => [...(manifest.derivations[node.kind] ?? []).entries()].filter(([, step]) => step.needs !== "bias" || node.stored[step.id === "dweight" ? "weight" : "bias"]);

// The derivation of a row fills itself as soon as the page is idle, or when it is wanted at once; the one shown last is
// kept, for a row that is drawn anew.
const unfilled = new Map(); // element -> node
const filled = { node: null, look: null, element: null };
const look = () => `${app.language} ${app.theme}`;

function derivationLater(node) {
  if (filled.node === node && filled.look === look()) return filled.element;
  const holder = h("div", { class: "derivation" });
  unfilled.set(holder, node);
  setTimeout(() => requestAnimationFrame(() => setTimeout(() => fillDerivation(holder))));
  return holder;
}

function fillDerivation(holder) {
  const node = unfilled.get(holder);
  unfilled.delete(holder);
  if (!node || !holder.isConnected) return;
  Object.assign(filled, { node, look: look(), element: renderDerivation(node) });
  holder.replaceWith(filled.element);
}

const fillDerivations = () => [...unfilled.keys()].forEach(fillDerivation);

function renderDerivation(node) {
  return h("div", { class: "derivation" },
    h("h4", {}, t("derivation.title")),
    h("ol", { class: "steps" }, shownSteps(node).map(([k, step]) => h("li", { id: `step-${node.kind}-${k}` },
      step.title ? h("h5", {}, step.title[app.language]) : null,
      proseElement(step[app.language]), mathElement(formulaOf(step, node)),
      step.anim ? animations[step.anim]() : null))),
    h("h4", {}, t("derivation.reference")),
    manifest.sources[node.kind].map((s) => h("figure", { class: "code" }, h("figcaption", {}, s.name), h("pre", { tabindex: 0 }, h("code", {}, s.source)))));
}
