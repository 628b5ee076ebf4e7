// The page's data: a manifest and one block of float32 numbers, collected by cnn/explain/collect.py.
// A tensor is named by its node and a short name: y, dy, weight, dweight, bias, dbias, running_mean, p, target, dx0 …

const { manifest } = carried;
const nodes = manifest.nodes;
const lossNode = nodes[nodes.length - 1];

const crcTable = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc32(bytes, start, end) {
  let crc = 0xffffffff;
  for (let k = start; k < end; k++) crc = crcTable[(crc ^ bytes[k]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const blobBytes = carried.bytes;

function storedTensor(spec) {
  return { shape: spec.shape, data: new Float32Array(blobBytes.buffer, spec.offset * 4, spec.size), spec };
}

for (const node of nodes) {
  node.tensors = {};
  for (const [name, spec] of Object.entries(node.stored)) node.tensors[name] = storedTensor(spec);
  // Of several images, what differs from one to the next; node.tensors has those of the image that is shown.
  node.batch = node.batch?.map((own) => Object.fromEntries(Object.entries(own).map(([name, spec]) => [name, storedTensor(spec)]))) ?? null;
  node.consumers = [];
  node.inShapes = node.inputs.map((k) => nodes[k].shape);
  node.inputs.forEach((k, slot) => nodes[k].consumers.push({ node, slot }));
}

// What the engine computes with besides the inputs, as plain arrays: parameters, buffers, and the truth for the loss.
function parametersOf(node) {
  const values = {}, truth = node === lossNode ? ["target"] : [];
  for (const name of [...node.parameters, ...node.buffers, ...truth]) values[name] = node.tensors[name].data;
  return values;
}

const inputsOf = (node) => node.inputs.map((k) => nodes[k].tensors.y.data);

const batchSize = lossNode.batch?.length ?? 1, isBatch = batchSize > 1;

// One tensor of every image of the batch; a page of one image is a batch of one.
const batchOf = (node, name) => (isBatch ? node.batch.map((own) => own[name].data) : [node.tensors[name].data]);

// Which image of the batch node.tensors shows.
const shownImage = { n: 0 };

function bindImage(n) {
  shownImage.n = n;
  for (const node of nodes) {
    for (const name of Object.keys(node.tensors)) if (/^dx\d$/.test(name)) delete node.tensors[name];
    Object.assign(node.tensors, node.batch[n]);
  }
}

// The tensor a cell lives in. dx0, dx1 (the share of one consumer when an output is used twice) are computed here.
function tensorOf(node, name) {
  if (!Object.hasOwn(node.tensors, name) && /^dx\d$/.test(name) && node.inputs.length > Number(name[2])) {
    backwardImages(node).dxs.forEach((own, slot) => (node.tensors["dx" + slot] = { shape: node.inShapes[slot], data: own[isBatch ? shownImage.n : 0] }));
  }
  return Object.hasOwn(node.tensors, name) ? node.tensors[name] : undefined;
}

const cell = (node, tensor, index) => ({ node, tensor, index });
const valueAt = (c) => tensorOf(c.node, c.tensor).data[c.index];
const positionOf = (c) => unravel(c.index, tensorOf(c.node, c.tensor).shape);
const cellKey = (c) => `${c.node.id}/${c.tensor}/${positionOf(c).join(",")}`;

// The cell of an address, or null if there is no such cell.
function cellFromKey(key) {
  const [id, tensor, place] = key.split("/");
  const node = nodes[Number(id)];
  const found = node && place ? tensorOf(node, tensor) : null;
  if (!found) return null;
  const position = place.split(",").map(Number);
  const inside = position.length === found.shape.length && position.every((p, k) => Number.isInteger(p) && p >= 0 && p < found.shape[k]);
  return inside ? cell(node, tensor, ravel(position, found.shape)) : null;
}
