// The learners' questions, each with the place of its answer: a tab, a station, a step of a derivation, a command.

// "#step-Conv2d-3" -> { node, id }: a layer of that kind, if possible the one whose details are open. Otherwise null.
function stepOf(address) {
  const [, kind, k] = /^#step-(\w+)-(\d+)$/.exec(address) ?? [], own = nodes.filter((node) => node.kind === kind && shownSteps(node).some(([at]) => at === Number(k)));
  return own.length ? { node: own.find((node) => opened.has(node.id)) ?? own[0], id: address.slice(1) } : null;
}

function isReachable(address) {
  if (address.startsWith("#tour=")) return hasView("tour") && stations().some((one) => address === `#tour=${one.id}`);
  return address.startsWith("#/") ? viewOf(address) === address.slice(2) : stepOf(address) !== null;
}

// Opens the row that holds the step, and scrolls to it.
function showStep({ node, id }) {
  if (node !== lossNode && !opened.has(node.id)) toggleRow(node, true);
  fillDerivations();
  byId(id)?.scrollIntoView({ block: "start", behavior: "instant" });
}

function renderQuestions() {
  const follow = (address) => {
    byId("questions").open = false;
    if (location.hash === address) route();
    if (!address.startsWith("#step-")) byId("content").scrollIntoView({ behavior: "instant" });
  };
  const line = ({ place: address, answer, ...words }) => {
    const question = words[app.language], onPage = address.startsWith("#");
    const where = !onPage ? h("code", {}, address) : isReachable(address) ? null : h("span", { class: "fine" }, t("questions.absent"));
    return h("li", {}, onPage && !where ? h("a", { href: address, onclick: () => follow(address) }, question) : [question, " ", where],
      answer ? h("p", { class: "fine" }, answer[app.language]) : null);
  };
  return h("details", { class: "questions", id: "questions" }, h("summary", {}, t("questions.title", { n: manifest.questions.length })),
    h("ol", {}, manifest.questions.map(line)));
}
