"use strict";
// The page that runs cnn in the browser. Python runs in a worker; its files are scripts, since a page that was opened
// from disk may load scripts and nothing else.

const root = document.getElementById("python"), words = JSON.parse(document.getElementById("words").textContent);
const exercises = JSON.parse(document.getElementById("exercises").textContent), byId = (id) => document.getElementById(id);
const parts = {}, waiting = new Map();
let worker = null, count = 0, place = null, busy = false;
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);
const element = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

// Called by the scripts that carry the files.
globalThis.part = (name, text) => (parts[name] = text);

function script(source) {
  return new Promise((resolve, reject) => {
    document.head.append(element("script", { src: source, onload: resolve, onerror: () => reject(new Error(source)) }));
  });
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

function ask(kind, more = {}, transfer = []) {
  const id = ++count;
  worker.postMessage({ kind, id, ...more }, transfer);
  return new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
}

function hear({ data }) {
  if (data.kind === "out") return place?.append(`${data.text}\n`);
  if (data.kind === "plot") return place?.after(curve(data.values));
  const { resolve, reject } = waiting.get(data.id);
  waiting.delete(data.id);
  return data.error ? reject(new Error(data.error)) : resolve(data.result);
}

function say(text, state) {
  byId("state").textContent = text;
  root.dataset.state = state;
}

function enable() {
  for (const button of root.querySelectorAll("button[data-needs]")) button.disabled = busy || root.dataset.state === "loading";
  byId("start").disabled = root.dataset.state !== "off";
  byId("stop").disabled = !busy;
}

async function start() {
  say(words.loading, "loading");
  enable();
  const names = root.dataset.files.split(" ");
  try {
    for (const [k, name] of names.entries()) {
      if (!(name in parts)) await script(`../python/${name}.js`);
      say(fill(words.part, { k: k + 1, n: names.length }), "loading");
    }
    say(words.starting, "loading");
    const files = Object.fromEntries(await Promise.all(Object.entries(parts).map(async ([name, text]) => [name, await unpacked(text)])));
    const code = ["pyodide.asm.js", "pyodide.js", "worker.js"].map((name) => files[name]);
    const address = URL.createObjectURL(new Blob(code.flatMap((text) => [text, "\n;\n"]), { type: "text/javascript" }));
    worker = new Worker(address);
    worker.onmessage = hear;
    const lock = { info: { abi_version: "2024_0", arch: "wasm32", platform: "emscripten_3_1_58", python: "3.12.7", version: root.dataset.version }, packages: {} };
    files["pyodide-lock.json"] = new TextEncoder().encode(JSON.stringify(lock)).buffer;
    for (const name of ["pyodide.asm.js", "pyodide.js", "worker.js"]) delete files[name];
    say(fill(words.ready, { version: await ask("start", { files }, Object.values(files)) }), "ready");
    URL.revokeObjectURL(address);
  } catch (error) {
    say(fill(words.broken, { why: error.message }), "off");
  }
  enable();
}

// Ends what runs: the worker cannot be interrupted, so it goes, and Python starts again without its variables.
function stop() {
  worker.terminate();
  for (const { reject } of waiting.values()) reject(new Error(words.stopped));
  waiting.clear();
  start();
}

// Does one thing at a time, and starts Python first where nobody has.
async function occupied(work) {
  if (root.dataset.state === "off") await start();
  if (root.dataset.state !== "ready") return;
  busy = true;
  enable();
  try {
    await work();
  } finally {
    busy = false;
    enable();
  }
}

function run(cell) {
  const output = cell.querySelector(".output");
  return occupied(async () => {
    cell.querySelector("svg")?.remove();
    Object.assign(output, { textContent: "", hidden: false });
    cell.dataset.result = "running";
    place = output;
    try {
      cell.dataset.result = (await ask("run", { code: cell.querySelector("textarea").value })) ? "right" : "wrong";
    } catch (error) {
      output.append(error.message);
      cell.dataset.result = "stopped";
    }
    output.textContent ||= words.nothing;
  });
}

function curve(values) {
  const W = 560, H = 150, low = Math.min(...values), high = Math.max(...values), span = high - low || 1;
  const x = (k) => 44 + (k * (W - 60)) / Math.max(1, values.length - 1), y = (v) => 12 + ((high - v) / span) * (H - 34);
  const line = values.map((v, k) => `${x(k).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
  const frame = element("div");
  frame.innerHTML = `<svg class="drawn curve" viewBox="0 0 ${W} ${H}" role="img" aria-label="${words.curve}">
<path class="axis" d="M44 8V${H - 18}H${W - 10}"/><polyline class="line" points="${line}"/>
<text class="small" x="38" y="${y(high) + 4}" text-anchor="end">${high.toPrecision(3)}</text><text class="small" x="38" y="${y(low) + 4}" text-anchor="end">${low.toPrecision(3)}</text>
<text class="small" x="${x(0)}" y="${H - 4}">1</text><text class="small" x="${x(values.length - 1)}" y="${H - 4}" text-anchor="end">${values.length}</text></svg>`;
  return frame.firstChild;
}

// -- exercises --

const chosen = () => exercises[byId("which").value];

function choose() {
  const text = byId("answer");
  text.value = chosen().draft ?? chosen().stub;
  grow(text);
  byId("marks").replaceChildren();
  byId("hints").replaceChildren();
  byId("about").href = `exercises.html#${byId("which").value}`;
}

function hint() {
  const shown = byId("hints").childElementCount;
  if (shown < 3) byId("hints").append(element("li", { textContent: chosen().hints[shown] }));
}

function check() {
  const marks = byId("marks");
  return occupied(async () => {
    marks.replaceChildren();
    const name = byId("which").value, passed = (trials) => trials.filter((one) => one.passed).length;
    try {
      const found = await ask("judge", { name, text: byId("answer").value, language: words.language });
      for (const { what, passed: right, message } of found.trials)
        marks.append(element("li", { className: right ? "right" : "wrong" }, `${right ? "✓" : "✗"} ${what}`, ...(message ? [element("span", { textContent: message })] : [])));
      const last = found.status === "passed" ? fill(words.passed, { n: found.trials.length })
        : found.status === "not filled in" ? words.empty : found.message || fill(words.failed, { k: passed(found.trials), n: found.trials.length });
      marks.append(element("li", { className: "verdict", textContent: last }));
      marks.dataset.status = found.status;
    } catch (error) {
      marks.append(element("li", { className: "verdict", textContent: error.message }));
    }
  });
}

// A new line begins where the one before began, and deeper after a colon.
function newLine(event) {
  const area = event.target, before = area.value.slice(0, area.selectionStart), line = before.slice(before.lastIndexOf("\n") + 1);
  event.preventDefault();
  area.setRangeText(`\n${line.match(/^ */)[0]}${/:\s*$/.test(line) ? "    " : ""}`, area.selectionStart, area.selectionEnd, "end");
  area.dispatchEvent(new Event("input"));
}

const grow = (area) => (area.rows = Math.min(34, area.value.split("\n").length + 1));
for (const area of root.querySelectorAll("textarea")) {
  area.addEventListener("input", () => grow(area));
  area.addEventListener("keydown", (event) => {
    const cell = area.closest(".pycell");
    if (event.key === "Enter" && event.shiftKey && cell) {
      event.preventDefault();
      if (root.dataset.state !== "loading" && !busy) run(cell);
    } else if (event.key === "Enter") newLine(event);
  });
  grow(area);
}
for (const cell of root.querySelectorAll(".pycell")) cell.querySelector("button").addEventListener("click", () => run(cell));
byId("start").addEventListener("click", start);
byId("stop").addEventListener("click", stop);
byId("check").addEventListener("click", check);
byId("hint").addEventListener("click", hint);
byId("which").addEventListener("change", () => location.replace(`#${byId("which").value}`));
byId("answer").addEventListener("input", () => (chosen().draft = byId("answer").value));
byId("again").addEventListener("click", () => (delete chosen().draft, choose()));
// The address names the exercise: links lead to one, and the link to the other language keeps it.
function followAddress() {
  const name = location.hash.slice(1);
  if (!(name in exercises)) return;
  byId("which").value = name;
  choose();
  byId("exercise").scrollIntoView();
}
addEventListener("hashchange", followAddress);
choose();
enable();
followAddress();
