// The page around the views: tabs, languages, theme, and the address that says where we are.

const views = { tour: renderTour, network: renderNetwork, loss: renderLoss, train: renderTrain, history: renderHistory, experiments: renderExperiments, pictures: renderPictures };
const place = { view: "network" };

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
  byId("skip").onclick = (event) => {
    event.preventDefault(); // the address says which number is open
    byId("content").focus();
    byId("content").scrollIntoView();
  };
  byId("page").replaceChildren(renderHeader(), h("main", {}, renderTabs(),
    h("div", { id: "content", role: "tabpanel", "aria-labelledby": `tab-${place.view}`, tabindex: -1 })));
  showBanner();
  showView();
}

function renderTabs() {
  const shownViews = Object.keys(views).filter(hasView);
  return tabList(t("tabs.label"), shownViews, place.view, (view) => (location.hash = view === "tour" ? "#tour=" + stations()[tour.at].id : `#/${view}`), (view) => t(`tab.${view}`));
}

function showView() {
  document.querySelector("main > .tabs")?.replaceWith(renderTabs());
  const content = byId("content");
  content.setAttribute("aria-labelledby", `tab-${place.view}`);
  content.replaceChildren(views[place.view]());
  content.dataset.view = document.documentElement.dataset.view = place.view;
  forgetMaps();
}

// #/network, #/network/3/y/0,4,6, #/loss, #/train, #/experiments, #/pictures; #tour=softmax, #step-Conv2d-3
function viewOf(hash) {
  const step = stepOf(hash), view = step ? (step.node === lossNode ? "loss" : "network") : hash.startsWith("#tour") ? "tour" : hash.split("/")[1];
  return Object.hasOwn(views, view ?? "") && hasView(view) ? view : "network";
}

// The tour, drawing and training follow one image, so they belong to the pages of one image; the experiments need only a
// loss, of a batch the mean. And where a layer is shown as values only, nothing else can be computed; what follows one
// class, as the tour does, needs the loss of a classifier.
const hasView = (view) => (/^(network|loss)$/.test(view) ? true : fixedPage || otherLoss ? false : view === "history" ? past.length > 0 : !isBatch || view === "experiments");

function route() {
  const wanted = viewOf(location.hash), moved = wanted !== place.view, [, , ...rest] = location.hash.split("/");
  const hadFocus = moved && document.activeElement?.getAttribute("role") === "tab";
  place.view = wanted;
  const station = wanted === "tour" ? findStation(location.hash.split("=")[1]) : tour.at;
  if (moved || station !== tour.at) {
    tour.at = station;
    showView();
  }
  if (hadFocus) byId(`tab-${wanted}`)?.focus();
  const found = wanted === "network" && rest.length ? cellFromKey(rest.join("/")) : null;
  if (found) showCell(found);
  else delete document.documentElement.dataset.inspecting;
  const step = stepOf(location.hash);
  if (step) showStep(step);
  lightView(found ?? (step && step.node !== lossNode ? cell(step.node, "dy", 0) : null));
  arrived();
}

// Where in the loop each view is.
function lightView(found = null) {
  if (place.view === "tour") return glanceAt(stations()[tour.at].phase, stations()[tour.at].node);
  if (place.view === "loss") return glanceAt("loss", lossNode);
  if (/^(train|history)$/.test(place.view)) return glanceAt("all");
  if (place.view === "experiments") return glanceAt("update");
  if (found) return glanceAt(/^d(y|x\d|weight|bias)$/.test(found.tensor) ? "backward" : found.node === lossNode ? "loss" : "forward", found.node);
  glanceAt(app.direction);
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

function repaintPage(theme) {
  setTheme(theme, false);
  renderPage();
  reopen();
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
  // ?lang=zh in the address of a link comes before what was chosen here
  const asked = new URLSearchParams(location.search).get("lang");
  app.language = (texts[asked] ? asked : null) ?? kept("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
  setTheme(kept("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"), false);
  document.documentElement.dataset.direction = app.direction;
  place.view = viewOf(location.hash);
  tour.at = findStation(location.hash.split("=")[1]);
  renderPage();
  route();
  addEventListener("hashchange", route);
  addEventListener("keydown", tourKey);
  let width = innerWidth, waitingFor = null;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waitingFor);
    waitingFor = setTimeout(() => refreshPage(document.activeElement?.id || null), 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
    if (!kept("theme")) repaintPage(event.matches ? "dark" : "light");
  });
  verify();
}

start();
