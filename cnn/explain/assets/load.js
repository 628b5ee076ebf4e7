// Unpacks the data that the page carries and then runs its program. A line of #data is base64 of a deflated block:
// the manifest, the texts of each language, then the numbers. See cnn/explain/packing.py.

const carried = { manifest: null, texts: {}, bytes: null };

function bytesOf(line) {
  let binary;
  try {
    binary = atob(line);
  } catch {
    // A character outside the alphabet: read what can be read; the checksums then name the tensor.
    binary = atob(line.replace(/[^A-Za-z0-9+/=]/g, "A"));
  }
  const bytes = new Uint8Array(binary.length);
  for (let k = 0; k < binary.length; k++) bytes[k] = binary.charCodeAt(k);
  return bytes;
}

const inflated = async (line) => new Uint8Array(await new Response(new Blob([bytesOf(line)]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
const parsed = async (line) => JSON.parse(new TextDecoder().decode(await inflated(line)));

// Numbers come with their bytes ordered by place: the first bytes of all numbers, then the second ones …
async function placeBlock(line, start, size) {
  let planes;
  try {
    planes = await inflated(line);
  } catch {
    return; // damaged: it stays 0, which the checksums will say
  }
  for (let place = 0; place < 4; place++) {
    for (let k = 0; k < size; k++) carried.bytes[(start + k) * 4 + place] = planes[place * size + k];
  }
}

async function load() {
  const [manifest, english, chinese, ...blocks] = document.getElementById("data").textContent.trim().split("\n");
  document.getElementById("data").remove();
  [carried.manifest, carried.texts.en, carried.texts.zh] = await Promise.all([manifest, english, chinese].map(parsed));
  const { sizes } = carried.manifest;
  carried.bytes = new Uint8Array(4 * sizes.reduce((a, b) => a + b, 0));
  let start = 0;
  await Promise.all(blocks.map((line, k) => {
    const at = start;
    start += sizes[k];
    return placeBlock(line, at, sizes[k]);
  }));
  const program = document.createElement("script");
  program.textContent = document.getElementById("program").textContent;
  document.body.append(program);
}

load().catch((error) => {
  document.getElementById("page").textContent = `The data of this page are damaged, or the browser is older than 2023. 本页的数据已损坏，或浏览器版本过旧（早于 2023 年）。(${error.message})`;
});
