// The page around the views: heading, prediction, banner, tabs, languages, theme, and the address that says where we are.

const views = { network: renderNetwork, loss: renderLoss, experiments: renderExperiments, pictures: renderPictures };
const place = { view: "network" };
let verdict = null; // the report of verify(), when it is there

function renderNetwork() {
  return h("div", { class: "network" },
    h("div", { class: "listing" }, h("div", { class: "switchline" },
      h("div", { class: "switch", role: "group", "aria-label": t("switch.label") }, ["forward", "backward"].map((side) => h("button", {
        id: side, "aria-pressed": String(app.direction === side), onclick: () => setDirection(side),
      }, `${side === "forward" ? "↓" : "↑"} ${t(`switch.${side}`)}`))),
      h("p", { class: "legend" }, h("span", { class: "swatch neg", "aria-hidden": "true" }), t("legend.negative"), h("span", { class: "swatch zero", "aria-hidden": "true" }), "0", h("span", { class: "swatch pos", "aria-hidden": "true" }), t("legend.positive"))),
    renderRows()),
    h("aside", { id: "inspector", class: "inspector", "aria-label": t("inspect.title"), tabindex: -1, onkeydown: leaveInspector }, emptyInspector()));
}

function renderPage() {
  maps.clear();
  document.documentElement.lang = app.language === "zh" ? "zh-CN" : "en";
  byId("skip").textContent = t("skip");
  byId("page").replaceChildren(renderHeader(), h("main", {}, renderTabs(),
    h("div", { id: "content", role: "tabpanel", "aria-labelledby": `tab-${place.view}`, tabindex: -1 })));
  showBanner();
  showView();
}

function renderHeader() {
  const z = nodes[lossNode.inputs[0]].tensors.y.data, p = lossNode.tensors.p.data, best = statisticsOf(z).maxAt;
  const about = manifest.about, order = [...p.keys()].sort((a, b) => p[b] - p[a] || a - b).slice(0, 3);
  const thumb = shown(imageCanvas(), t("pictures.image"));
  thumb.classList.add("thumb");
  return h("header", { class: "top" },
    h("div", { class: "masthead" },
      h("div", {}, h("p", { class: "eyebrow" }, t("page.eyebrow")), h("h1", {}, manifest.title)),
      h("div", { class: "controls" },
        h("button", { id: "language", class: "quiet", lang: app.language === "en" ? "zh-CN" : "en", onclick: () => setLanguage(app.language === "en" ? "zh" : "en") }, app.language === "en" ? "中文" : "English"),
        h("button", { id: "theme", class: "quiet", onclick: () => setTheme(app.theme === "light" ? "dark" : "light") }, t(app.theme === "light" ? "theme.dark" : "theme.light")))),
    h("div", { class: "summary" },
      thumb,
      h("div", { class: "facts-block" },
        h("p", { class: "verdict" }, t(best === about.label ? "page.right" : "page.wrong", { guess: className(best), truth: className(about.label) })),
        h("ol", { class: "bars", "aria-label": t("page.probabilities") }, order.map((k) => {
          const fill = h("span", { class: "fill" });
          fill.style.width = `${100 * p[k]}%`;
          return h("li", {}, h("span", { class: "name" }, className(k)), h("span", { class: "track", "aria-hidden": "true" }, fill), numberButton(cell(lossNode, "p", k), 3));
        }))),
      h("dl", { class: "numbers" },
        h("dt", {}, t("page.loss")), h("dd", {}, numberButton(cell(lossNode, "y", 0))),
        h("dt", {}, t("page.truth")), h("dd", {}, className(about.label)),
        h("dt", {}, t("page.source")), h("dd", {}, about.source ?? ""),
        h("dt", {}, t("page.backend")), h("dd", {}, about.backend ?? ""))),
    h("p", { id: "banner", class: "banner", role: "status" }));
}

function showBanner() {
  const banner = byId("banner");
  if (!verdict) {
    banner.textContent = t("banner.working");
    return;
  }
  const fault = verdict.fault;
  banner.dataset.state = fault ? "bad" : "good";
  if (!fault) {
    const chainLoss = lossOf(floatChain().values);
    banner.replaceChildren(h("strong", {}, `✓ ${t("banner.good", { n: verdict.count.toLocaleString("en") })}`), " ",
      h("span", {}, t("banner.detail", { error: number(verdict.error, 2), loss: number(chainLoss, 7), stored: number(lossNode.tensors.y.data[0], 7) })));
    return;
  }
  const owner = fault.blamed ?? fault.node, what = { layer: nodeTitle(owner), tensor: tensorTitle(fault.node, fault.tensor) };
  banner.dataset.layer = owner.name;
  if (fault.reason === "bytes") banner.replaceChildren(h("strong", {}, `✗ ${t("banner.bytes", what)}`));
  else {
    const c = cell(fault.node, fault.tensor, fault.at);
    banner.replaceChildren(h("strong", {}, `✗ ${t("banner.bad", what)}`), " ",
      h("a", { href: `#/network/${cellKey(c)}` }, t("banner.example", { cell: cellTitle(c), stored: signed(fault.stored), computed: signed(fault.computed) })));
  }
}

function renderTabs() {
  return tabList(t("tabs.label"), Object.keys(views), place.view, (view) => (location.hash = `#/${view}`), (view) => t(`tab.${view}`));
}

function showView() {
  document.querySelector("main > .tabs")?.replaceWith(renderTabs());
  const content = byId("content");
  content.setAttribute("aria-labelledby", `tab-${place.view}`);
  content.replaceChildren(views[place.view]());
  content.dataset.view = place.view;
  forgetMaps();
}

// #/network, #/network/3/y/0,4,6, #/loss, #/experiments, #/pictures
function route() {
  const [, view, ...rest] = location.hash.split("/"), wanted = views[view] ? view : "network";
  const moved = wanted !== place.view;
  const hadFocus = moved && document.activeElement?.getAttribute("role") === "tab";
  place.view = wanted;
  if (moved) showView();
  if (hadFocus) byId(`tab-${wanted}`)?.focus();
  const found = rest.length ? cellFromKey(rest.join("/")) : null;
  if (wanted === "network" && found) showCell(found);
  else if (moved) delete document.documentElement.dataset.inspecting;
  arrived();
}

// The address bar changes before the page does; this says which address is on the page.
function arrived() {
  document.documentElement.dataset.place = location.hash;
}

function setLanguage(language) {
  app.language = language;
  keep("language", language);
  renderPage();
  reopen();
  byId("language").focus();
}

function setTheme(theme, remember = true) {
  app.theme = theme;
  document.documentElement.dataset.theme = theme;
  if (!remember) return;
  keep("theme", theme);
  renderPage();
  reopen();
  byId("theme").focus();
}

function reopen() {
  if (place.view === "network" && trail[trailAt] && location.hash.endsWith(trail[trailAt])) showCell(cellFromKey(trail[trailAt]));
}

// Storage may be forbidden for local files: then choices last as long as the page.
function keep(name, value) {
  try {
    localStorage.setItem(`cnn-explain-${name}`, value);
  } catch {
    document.documentElement.dataset[`kept${name}`] = value;
  }
}

function kept(name) {
  try {
    return localStorage.getItem(`cnn-explain-${name}`);
  } catch {
    return null;
  }
}

function start() {
  app.language = kept("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  setTheme(kept("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"), false);
  document.documentElement.dataset.direction = app.direction;
  place.view = views[location.hash.split("/")[1]] ? location.hash.split("/")[1] : "network";
  renderPage();
  route();
  addEventListener("hashchange", route);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    if (!kept("theme")) setTheme(event.matches ? "dark" : "light", false), renderPage(), reopen();
  });
  verify((report) => {
    verdict = report;
    showBanner();
  });
}

start();
