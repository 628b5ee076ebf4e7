// Moving pictures of the two gradients of a convolution, on small whole numbers: one product at a time.
// "dx": for one input pixel, the window of ∂L/∂y and the kernel turned by 180°, filter by filter, with subtotals.
// "dweight": for one weight, ∂L/∂y laid on the input. Stride, dilation and padding can be changed; the arrow keys (or a
// click) choose another pixel or weight.

const toy = {
  size: 5, kernel: 3,
  weights: [[[1, -2, 0], [3, 1, -1], [0, 2, -3]], [[0, 1, 2], [-1, 0, 1], [2, -2, 1]]],
  gradient: (k, i, j) => [[2, -1, 0, 1, -2], [0, 3, -2, 1, 1], [1, 0, 2, -1, 0], [-1, 2, 1, 0, 3], [2, 0, -1, 1, -2]][i][(j + 2 * k) % 5],
  input: (a, b) => [[0, 1, 2, 1, 0], [1, 3, 0, 2, 1], [2, 0, 1, 3, 2], [0, 2, 3, 1, 0], [1, 0, 2, 0, 1]][a][b],
};

// How many outputs one axis has.
const toyOutputs = ({ stride, dilation, padding }) => Math.floor((toy.size + 2 * padding - dilation * (toy.kernel - 1) - 1) / stride) + 1;

// The products of dx[a, b]: every (k, u, v) in the order in which the window of ∂L/∂y is read; those without an output
// have value null.
function toyInputTerms(settings, a, b) {
  const { stride, dilation, padding } = settings, outputs = toyOutputs(settings), terms = [];
  for (let k = 0; k < toy.weights.length; k++)
    for (let u = toy.kernel - 1; u >= 0; u--)
      for (let v = toy.kernel - 1; v >= 0; v--) {
        const i = (a + padding - u * dilation) / stride, j = (b + padding - v * dilation) / stride;
        const there = [i, j].every((q) => Number.isInteger(q) && q >= 0 && q < outputs);
        const w = toy.weights[k][u][v], dy = there ? toy.gradient(k, i, j) : 0;
        terms.push({ k, u, v, i, j, there, w, dy, value: w * dy });
      }
  return terms;
}

// The products of dw[u, v] of the first filter: one for each output.
function toyWeightTerms(settings, u, v) {
  const { stride, dilation, padding } = settings, outputs = toyOutputs(settings), terms = [];
  for (let i = 0; i < outputs; i++)
    for (let j = 0; j < outputs; j++) {
      const a = i * stride + u * dilation - padding, b = j * stride + v * dilation - padding;
      const there = a >= 0 && a < toy.size && b >= 0 && b < toy.size;
      const x = there ? toy.input(a, b) : 0, dy = toy.gradient(0, i, j);
      terms.push({ i, j, a, b, there, x, dy, value: x * dy });
    }
  return terms;
}

const toyCell = 26;

// A grid of numbers: cells = [{ row, column, text, mark: class names }]; rows and columns may begin below 0 (padding).
function toyGrid(cells, caption, extra = {}) {
  const rows = cells.map((c) => c.row), columns = cells.map((c) => c.column);
  const top = Math.min(...rows), left = Math.min(...columns), height = Math.max(...rows) - top + 1, width = Math.max(...columns) - left + 1;
  const place = (c) => [(c.column - left) * toyCell + 1, (c.row - top) * toyCell + 1];
  const picture = s("svg", { class: "toy-grid", viewBox: `0 0 ${width * toyCell + 2} ${height * toyCell + 2}`, width: width * toyCell + 2, height: height * toyCell + 2, ...extra.attributes },
    cells.map((c) => {
      const [x, y] = place(c);
      return s("g", { class: `toy-cell ${c.mark ?? ""}` }, s("rect", { x: x + 1, y: y + 1, width: toyCell - 2, height: toyCell - 2, rx: 3 }),
        s("text", { x: x + toyCell / 2, y: y + toyCell / 2 + 4.5 }, c.text === "" ? "" : String(c.text).replace("-", "−")));
    }));
  if (extra.choose) {
    picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      extra.choose(Math.floor((event.clientY - box.top) / (box.height / height)) + top, Math.floor((event.clientX - box.left) / (box.width / width)) + left);
    });
    picture.addEventListener("keydown", (event) => {
      const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!move) return;
      event.preventDefault();
      extra.choose(extra.at[0] + move[0], extra.at[1] + move[1], true);
    });
  }
  return h("figure", { class: "toy-figure" }, picture, h("figcaption", {}, caption));
}

const toyRange = (n) => Array.from({ length: n }, (_, k) => k);
const toySigned = (value) => (value < 0 ? `(−${-value})` : String(value));

// What stands between the grids while the products are counted: the product, the subtotal of each filter, the sum.
function toyStatus(terms, at, name) {
  const done = terms.slice(0, at + 1), filters = [...new Set(terms.map((one) => one.k ?? 0))], last = terms[at];
  const sum = done.reduce((total, one) => total + one.value, 0), factor = last && (last.w ?? last.x);
  const product = !last ? t("anim.start") : !last.there ? t("anim.none")
    : `${toySigned(last.dy)} × ${toySigned(factor)} = ${number(last.value)}`;
  return [h("p", { class: "toy-product num" }, product),
    h("p", { class: "toy-sums num" }, filters.length > 1
      ? filters.map((k) => `${t("anim.filter", { k })} ${number(done.filter((one) => one.k === k).reduce((total, one) => total + one.value, 0))}`).join("  +  ") + "  =  " : `${name} = `,
    h("strong", {}, filters.length > 1 ? `${name} = ${number(sum)}` : number(sum)), at + 1 < terms.length ? " …" : " ✓")];
}

// The map ∂L/∂y of filter k as the turned kernel sees it: zeros between the numbers (stride) and around them (padding).
function toyGradientGrid(settings, k, term, a, b) {
  const { stride, dilation, padding } = settings, outputs = toyOutputs(settings), cells = [], reach = dilation * (toy.kernel - 1);
  const at = (u, place) => place + padding - u * dilation; // in rows of the spread-out map
  const from = Math.min(0, padding - reach), to = Math.max((outputs - 1) * stride, toy.size - 1 + padding);
  for (let row = from; row <= to; row++)
    for (let column = from; column <= to; column++) {
      const i = row / stride, j = column / stride, real = [i, j].every((q) => Number.isInteger(q) && q >= 0 && q < outputs);
      const window = toyRange(toy.kernel).some((u) => at(u, a) === row) && toyRange(toy.kernel).some((v) => at(v, b) === column);
      const lit = term && term.k === k && at(term.u, a) === row && at(term.v, b) === column;
      cells.push({ row, column, text: real ? toy.gradient(k, i, j) : 0, mark: `${real ? "" : "toy-pad"} ${window ? "toy-window" : ""} ${lit ? "toy-lit" : ""}` });
    }
  return toyGrid(cells, `∂L/∂y[${k}]`);
}

function toyKernelGrid(k, term, turned) {
  const flip = (q) => (turned ? toy.kernel - 1 - q : q), cells = [];
  for (let row = 0; row < toy.kernel; row++)
    for (let column = 0; column < toy.kernel; column++) {
      const u = flip(row), v = flip(column), lit = term && term.k === k && term.u === u && term.v === v;
      cells.push({ row, column, text: toy.weights[k][u][v], mark: `${lit ? "toy-lit" : ""} ${turned ? "toy-window" : ""}` });
    }
  return toyGrid(cells, turned ? t("anim.turned", { k }) : `w[${k}]`);
}

function toyInputPicture(state, choose) {
  const { settings, at: [a, b], step } = state, terms = toyInputTerms(settings, a, b), term = terms[step], k = term?.k ?? 0;
  const cells = toyRange(toy.size).flatMap((row) => toyRange(toy.size).map((column) => ({ row, column, text: "", mark: row === a && column === b ? "toy-chosen" : "" })));
  const pixel = toyGrid(cells, `∂L/∂x[${a}, ${b}]`, { choose, at: [a, b], attributes: { tabindex: 0, role: "application", "aria-label": t("anim.pixel", { a, b }), "data-focus": "toy" } });
  return [h("div", { class: "toy-row" }, pixel, h("span", { class: "toy-sign" }, "="), toyGradientGrid(settings, k, term, a, b), h("span", { class: "toy-sign" }, "⊙"),
    toyKernelGrid(k, term, true), h("span", { class: "toy-sign" }, "↻"), toyKernelGrid(k, term, false)), toyStatus(terms, step, `∂L/∂x[${a}, ${b}]`)];
}

function toyWeightPicture(state, choose) {
  const { settings, at: [u, v], step } = state, terms = toyWeightTerms(settings, u, v), term = terms[step], { padding } = settings;
  const weights = toyRange(toy.kernel).flatMap((row) => toyRange(toy.kernel).map((column) => {
    const known = row < u || (row === u && column < v) || (row === u && column === v && step === terms.length - 1);
    const sum = toyWeightTerms(settings, row, column).reduce((total, one) => total + one.value, 0);
    return { row, column, text: known ? sum : "", mark: row === u && column === v ? "toy-chosen" : "" };
  }));
  const inputs = [], outputs = toyOutputs(settings);
  for (let row = -padding; row < toy.size + padding; row++)
    for (let column = -padding; column < toy.size + padding; column++) {
      const inside = [row, column].every((q) => q >= 0 && q < toy.size), under = terms.find((one) => one.a === row && one.b === column);
      inputs.push({ row, column, text: inside ? toy.input(row, column) : 0, mark: `${inside ? "" : "toy-pad"} ${under ? "toy-window" : ""} ${term && term === under ? "toy-lit" : ""}` });
    }
  const gradients = toyRange(outputs).flatMap((row) => toyRange(outputs).map((column) => ({ row, column, text: toy.gradient(0, row, column), mark: `toy-window ${term?.i === row && term.j === column ? "toy-lit" : ""}` })));
  const weight = toyGrid(weights, `∂L/∂w[${u}, ${v}]`, { choose, at: [u, v], attributes: { tabindex: 0, role: "application", "aria-label": t("anim.weight", { u, v }), "data-focus": "toy" } });
  return [h("div", { class: "toy-row" }, weight, h("span", { class: "toy-sign" }, "="), toyGrid(inputs, t("anim.input")), h("span", { class: "toy-sign" }, "⊙"), toyGrid(gradients, "∂L/∂y[0]")),
    toyStatus(terms, step, `∂L/∂w[${u}, ${v}]`)];
}

// Folded until it is wanted, which keeps the page small.
function convAnimation(kind) {
  return h("details", { class: "toy-fold", ontoggle: (event) => {
    if (event.target.open && event.target.childElementCount === 1) event.target.append(convPicture(kind));
  } }, h("summary", {}, t(`anim.${kind}.title`)));
}

function convPicture(kind) {
  const forInput = kind === "dx", places = forInput ? toy.size : toy.kernel;
  const state = { settings: { stride: 1, dilation: 1, padding: 0 }, at: forInput ? [2, 1] : [0, 0], step: -1, timer: null };
  const count = () => (forInput ? toyInputTerms : toyWeightTerms)(state.settings, ...state.at).length;
  const stage = h("div", { class: "toy-stage" }), box = h("div", { class: "toy", role: "group", "aria-label": t(`anim.${kind}`) });
  const choose = (row, column, byKey) => {
    if (row < 0 || column < 0 || row >= places || column >= places) return;
    Object.assign(state, { at: [row, column], step: -1 });
    draw();
    if (byKey) stage.querySelector("[data-focus]").focus({ preventScroll: true });
  };
  const draw = () => stage.replaceChildren(...(forInput ? toyInputPicture : toyWeightPicture)(state, choose).flat());
  const stop = () => {
    clearInterval(state.timer);
    state.timer = null;
    play.textContent = t("anim.play");
  };
  // One product on; after the last one, the next pixel or weight.
  const forward = () => {
    if (state.step < count() - 1) state.step += 1;
    else {
      const next = state.at[0] * places + state.at[1] + 1;
      Object.assign(state, { step: -1, at: [Math.floor(next / places) % places, next % places] });
    }
    draw();
  };
  const play = h("button", { class: "quiet", type: "button", onclick: () => {
    if (state.timer) return stop();
    play.textContent = t("anim.pause");
    forward();
    state.timer = setInterval(() => (box.isConnected ? forward() : stop()), 900);
    return undefined;
  } }, t("anim.play"));
  const one = h("button", { class: "quiet", type: "button", onclick: () => (stop(), forward()) }, t("anim.step"));
  const back = h("button", { class: "quiet", type: "button", onclick: () => {
    stop();
    state.step = Math.max(-1, state.step - 1);
    draw();
  } }, t("anim.back"));
  const setting = (name, values) => h("label", {}, t(`anim.${name}`), " ", h("select", { "data-setting": name, onchange: (event) => {
    state.settings[name] = Number(event.target.value);
    state.step = -1;
    draw();
  } }, values.map((value) => h("option", { value }, String(value)))));
  draw();
  box.append(h("p", { class: "fine" }, t(`anim.${kind}`)),
    h("div", { class: "toy-controls" }, play, one, back, setting("stride", [1, 2]), setting("dilation", [1, 2]), setting("padding", [0, 1])), stage);
  return box;
}
