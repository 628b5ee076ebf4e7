// Follows the largest term again and again: from a gradient to p − y, from an activation back to a pixel. Each stop is
// { cell, share }: its part of the sum before it, by size; null for the first.
function trace(from) {
  const path = [{ cell: from, share: null }], backward = from.tensor.startsWith("d");
  for (let step = 0; step < 4 * nodes.length; step++) {
    const last = path[path.length - 1].cell;
    if (backward && last.node === lossNode) break;
    const next = strongestSource(last, backward ? /^(dy|dx\d|p|target)$/ : /^(y|p)$/);
    if (!next) break;
    path.push(next);
  }
  return path;
}

function strongestSource(c, wanted) {
  const made = explain(c), terms = made.form === "max" ? made.terms.filter((one) => one.wins) : made.terms;
  const size = terms.reduce((sum, term) => sum + Math.abs(term.value), 0);
  let best = null, weight = -1;
  for (const term of terms) {
    for (const f of term.factors) {
      if (!f.cell || !wanted.test(f.cell.tensor) || Math.abs(term.value) <= weight) continue;
      best = f.cell;
      weight = Math.abs(term.value);
    }
  }
  if (best) return { cell: best, share: size > 0 ? weight / size : null };
  const step = (made.steps ?? []).find((f) => f.cell && wanted.test(f.cell.tensor));
  return step ? { cell: step.cell, share: null } : null;
}
