"""How fast the page of `cnn explain` trains LeNet-5 in a browser: steps of 16 images a second, in its worker.

    python scripts/benchmark_page.py [--steps 60]

Needs playwright and a Chromium. The wanted speed is 10 steps a second on one core.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

import cnn
from cnn import layers
from cnn.data.sample import load_sample
from cnn.explain import build_page, collect
from cnn.explain.samples import choose_samples


def lenet_page() -> str:
    """Return the page of an untrained LeNet-5 on the first sample digit."""
    network = cnn.Network(
        [layers.Conv2d(6, 5, padding=2), layers.ReLU(), layers.MaxPool2d(2), layers.Conv2d(16, 5),
         layers.ReLU(), layers.MaxPool2d(2), layers.Flatten(), layers.Linear(120), layers.ReLU(),
         layers.Linear(84), layers.ReLU(), layers.Linear(10)]
    )  # fmt: skip
    network.build((1, 28, 28), rng=np.random.default_rng(0))
    digits = load_sample().train
    x = (digits.images[0] / 255 - 0.13) / 0.31
    with cnn.use_backend("reference"):
        nodes = collect(network, x, int(digits.labels[0]))
    about = {"label": int(digits.labels[0]), "mean": [0.13], "std": [0.31], "source": "benchmark"}
    return build_page(nodes, "LeNet-5", tuple("0123456789"), about, choose_samples(digits, 10))


def measure(file: Path, steps: int) -> list[float]:
    """Return the milliseconds of each step after ten to warm up."""
    from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(file.as_uri() + "#/train")
        page.wait_for_selector("#banner[data-state]")
        times = page.evaluate(
            """async (steps) => {
                const answer = () => new Promise((go) => (trainerLoaded.heard = go));
                loadTrainer({ ...training.settings }, 1);
                const times = [];
                for (let k = 0; k < steps; k++) {
                    const heard = answer();
                    trainerPost({ do: "step" });
                    times.push((await heard).milliseconds);
                }
                return times;
            }""",
            steps + 10,
        )
        browser.close()
    return times[10:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps
    page = lenet_page()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lenet.html"
        file.write_text(page, encoding="utf-8")
        times = np.array(measure(file, steps))
    print(f"page {len(page.encode()) / 1e6:.2f} MB")
    print(
        f"a step of 16 images: median {np.median(times):.1f} ms, "
        f"{1000 / np.median(times):.1f} steps a second (slowest {times.max():.0f} ms)"
    )


if __name__ == "__main__":
    main()
