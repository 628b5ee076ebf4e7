// Small helpers: elements, numbers as text, and the two languages.

const { texts } = carried;
const app = { language: "en", theme: "light", direction: "forward" };

// The text of a key in the current language, {name} replaced. A missing key shows itself and is reported once.
function t(key, values = {}) {
  const text = texts[app.language][key] ?? texts.en[key];
  if (text === undefined) {
    console.error(`no text for ${key}`);
    return key;
  }
  return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? values[name] : all));
}

// h("button", { class: "x", onclick: f, "aria-label": "…" }, child, "text", …)
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const byId = (id) => document.getElementById(id);

// Numbers: a true minus sign, and on request an explicit plus, so that the sign never hangs on colour alone.
function number(value, digits = 4, plus = false) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "+∞" : "−∞";
  const size = Math.abs(value);
  let text;
  if (size === 0) text = "0";
  else if (size >= 1e6 || size < 1e-4) {
    const [mantissa, power] = size.toExponential(digits - 1).split("e");
    text = `${mantissa}·10${superscript(Number(power))}`;
  } else text = String(Number(size.toPrecision(digits)));
  if (value < 0) return "−" + text;
  return (plus && size > 0 ? "+" : "") + text;
}

const signed = (value, digits = 4) => number(value, digits, true);

const superscript = (n) => String(n).replace(/[-0-9]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)]));

const signClass = (value) => (value > 0 ? "pos" : value < 0 ? "neg" : "zero");

const shapeText = (shape) => (shape.length ? shape.join(" × ") : "1");

const className = (k) => manifest.classes[k] ?? String(k);

// "conv1 Conv2d" for sentences; `name` is the layer's place in the network ("3.body.1").
const nodeTitle = (node) => (node.kind === "Input" ? t("node.image") : node === lossNode ? t(isPlainLoss(node.kind) ? "node.loss" : `node.${node.kind}`) : `${node.name} · ${node.kind}`);

// Normalisation scales by γ and shifts by β; PReLU has a slope a.
const scaleLetter = (node) => (isNorm(node) ? "γ" : node.kind === "PReLU" ? "a" : "w");

// What a tensor is called: activations are a, gradients ∂L/∂a, after the layer's own letters.
function tensorTitle(node, tensor) {
  if (/^dx\d$/.test(tensor)) return `∂L/∂x (${t("branch")} ${Number(tensor[2]) + 1})`;
  if (tensor === "y") return node === lossNode ? "L" : node.kind === "Input" ? "x" : "y";
  if (tensor === "dy") return node.kind === "Input" ? "∂L/∂x" : "∂L/∂y";
  const letters = { weight: scaleLetter(node), bias: isNorm(node) ? "β" : "b", running_mean: "μ", running_var: "σ²", p: /^(MSE|L1)Loss$/.test(node.kind) ? "z" : "p", target: node.kind === "PixelLoss" ? "t" : "y" };
  return tensor.startsWith("d") && letters[tensor.slice(1)] ? `∂L/∂${letters[tensor.slice(1)]}` : letters[tensor] ?? tensor;
}

const cellTitle = (c) => (tensorOf(c.node, c.tensor).data.length === 1 && c.node === lossNode ? tensorTitle(c.node, c.tensor)
  : symbolOf(tensorTitle(c.node, c.tensor), positionOf(c)));

// Probabilities and the loss carry no sign.
const neverNegative = (c) => c.node === lossNode && (c.tensor === "y" || (!/^(MSE|L1)Loss$/.test(lossNode.kind) && /^(p|target)$/.test(c.tensor)));

// A probability that is not 1 does not read as 1, however few digits there are: −ln 1 would be 0.
function probability(value, digits = 4) {
  const nearly = value < 1 && Number(value.toPrecision(digits)) === 1;
  return number(value, nearly ? Math.min(15, Math.ceil(-Math.log10(1 - value)) + 1) : digits);
}

const numberText = (c, value, digits = 4) => (!neverNegative(c) ? signed(value, digits) : c.tensor === "p" ? probability(value, digits) : number(value, digits));
