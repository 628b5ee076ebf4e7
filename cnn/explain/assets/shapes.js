// Positions in arrays of any shape, row-major. This file and the engine after it run in the page and in its worker.

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);

function unravel(index, shape) {
  const out = new Array(shape.length);
  for (let k = shape.length - 1; k >= 0; k--) {
    out[k] = index % shape[k];
    index = Math.floor(index / shape[k]);
  }
  return out;
}

function ravel(position, shape) {
  let index = 0;
  for (let k = 0; k < shape.length; k++) index = index * shape[k] + position[k];
  return index;
}

// Numbers from a seed, uniform on [0, 1): mulberry32, so that a restart in the page can be repeated.
function seededRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(count, random) {
  const order = Array.from({ length: count }, (_, k) => k);
  for (let k = count - 1; k > 0; k--) {
    const other = Math.floor(random() * (k + 1));
    [order[k], order[other]] = [order[other], order[k]];
  }
  return order;
}
