// Runs Python beside the page. All files came with the first message: whatever Pyodide asks for is answered from them.

let files = {}, python = null, space = null;
const ROOT = "https://site.invalid/"; // never asked: the answers below are in memory
self.fetch = async (url) => {
  const name = String(url).split("/").pop(), type = name.endsWith(".wasm") ? "application/wasm" : "application/octet-stream";
  return name in files ? new Response(files[name], { headers: { "Content-Type": type } }) : new Response("", { status: 404 });
};

const DO = {
  async start(message) {
    files = message.files;
    const say = (text) => postMessage({ kind: "out", text });
    python = await loadPyodide({ indexURL: ROOT, stdout: say, stderr: say });
    python.unpackArchive(files.numpy, "zip", { extractDir: "/site" });
    python.unpackArchive(files.cnn, "zip", { extractDir: "/site" });
    files = {};
    python.runPython("import sys; sys.path.insert(0, '/site'); import driver, numpy, cnn");
    space = python.runPython("{'__name__': '__main__'}");
    space.set("plot", (values) => postMessage({ kind: "plot", values: Array.from(values.toJs ? values.toJs() : values) }));
    return python.runPython("f'Python {sys.version.split()[0]}, NumPy {numpy.__version__}, cnn {cnn.__version__}'");
  },
  run: (message) => python.pyimport("driver").run(message.code, space),
  judge: (message) => JSON.parse(python.pyimport("driver").judge(message.name, message.text, message.language)),
};

self.onmessage = async ({ data }) => {
  try {
    postMessage({ kind: "done", id: data.id, result: await DO[data.kind](data) });
  } catch (error) {
    postMessage({ kind: "done", id: data.id, error: String(error) });
  }
};
