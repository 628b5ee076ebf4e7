"""How large, how quick and how fast at training the page of `cnn explain` is, in a browser.

    python scripts/benchmark_page.py [--config configs/sample.toml] [--steps 60]

The network of the config, not trained, on the first sample digit: size of the file; first paint; a click,
from the event to the finished layout and to the next frame; a training step of 16 images in its worker.
Wanted: 1.5 MB, 1 s, 50 ms, 10 steps a second on one core. Times are of the wall clock: nothing else should
run. Needs playwright and a Chromium; pin it to one core with `taskset -c 0`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

import cnn
from cnn.config import load_config
from cnn.data.sample import load_sample
from cnn.explain import build_page, collect
from cnn.explain.samples import choose_samples
from cnn.training.experiment import build_network

_SHOW = """async (key) => {
    const begin = performance.now();
    location.hash = "#/network/" + key;
    await new Promise((go) => addEventListener("hashchange", go, { once: true }));
    document.body.offsetHeight;
    const shown = performance.now() - begin;
    await new Promise((go) => requestAnimationFrame(() => setTimeout(go)));
    return [shown, performance.now() - begin];
}"""
_CELLS = """nodes.flatMap((node) => Object.entries(node.tensors).filter(([name]) => name !== "mask")
    .map(([name, tensor]) => cellKey(cell(node, name, Math.floor(tensor.data.length / 2)))))"""
_TRAIN = """async (steps) => {
    const answer = () => new Promise((go) => (trainerLoaded.heard = go));
    loadTrainer({ ...training.settings }, 1);
    const times = [];
    for (let k = 0; k < steps; k++) {
        const heard = answer();
        trainerPost({ do: "step" });
        times.push((await heard).milliseconds);
    }
    return times;
}"""


def sample_page(config) -> str:
    """Return the page of an untrained network on the first sample digit."""
    network = build_network(config, (1, 28, 28), 10)
    digits = load_sample().train
    x = (digits.images[0] / 255 - 0.13) / 0.31
    with cnn.use_backend("reference"):
        nodes = collect(network, x, int(digits.labels[0]))
    about = {"label": int(digits.labels[0]), "mean": [0.13], "std": [0.31], "source": "benchmark"}
    return build_page(nodes, config.name, tuple("0123456789"), about, choose_samples(digits, 10))


def measure(file: Path, steps: int) -> dict:
    """Return milliseconds: paint, clicks (n, 2: shown, next frame) and training steps, ten to warm up."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(file.as_uri())
        page.wait_for_selector("#banner[data-state]")
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        clicks = []
        for cell in page.evaluate(_CELLS):
            clicks.append(page.evaluate(_SHOW, cell))
            page.wait_for_timeout(100)
        page.goto(file.as_uri() + "#/train")
        page.reload()
        page.wait_for_selector("#banner[data-state]")
        times = page.evaluate(_TRAIN, steps + 10)[10:]
        browser.close()
    return {"paint": paint, "clicks": np.array(clicks), "steps": np.array(times)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/sample.toml")
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    page = sample_page(load_config(args.config))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        found = measure(file, args.steps)
    print(f"page: {len(page.encode()) / 1e6:.2f} MB, first contentful paint {found['paint']:.0f} ms")
    shown, framed = found["clicks"].T
    print(
        f"click, {len(shown)} tensors: shown after {np.median(shown):.0f} ms (slowest {shown.max():.0f}), "
        f"next frame {np.median(framed):.0f} ms (slowest {framed.max():.0f})"
    )
    times = found["steps"]
    print(
        f"a step of 16 images: median {np.median(times):.1f} ms, "
        f"{1000 / np.median(times):.1f} steps a second (slowest {times.max():.0f} ms)"
    )


if __name__ == "__main__":
    main()
