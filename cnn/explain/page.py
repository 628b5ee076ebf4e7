"""Turns collected nodes into one HTML file that needs nothing else: no network, no library, no server."""

import base64
import hashlib
import json
import tomllib
from html import escape
from importlib import resources

import numpy as np

from cnn.errors import ConfigError
from cnn.explain.derivations import derivation, loop_source, reference_source
from cnn.explain.packing import deflated, pack_numbers

__all__ = ["asset", "build_page", "check_size", "questions", "texts"]

# In the order in which they build on each other; all share one scope. The engine also runs in a worker; the
# program starts when the loader has unpacked the data.
LOADER = ("load.js",)
ENGINE = (
    "shapes.js",
    "engine_rows.js",
    "engine_window.js",
    "engine_point.js",
    "engine_group.js",
    "engine_losses.js",
    "engine_batch.js",
    "optimizers.js",
    "trainer.js",
)
SCRIPTS = (
    "data.js",
    "dom.js",
    "engine.js",
    "terms.js",
    "terms_group.js",
    "terms_losses.js",
    "trace.js",
    "values_only.js",
    "maps.js",
    "live.js",
    "anim_conv.js",
    "view_derivation.js",
    "view_rows.js",
    "view_sum.js",
    "view_inspector.js",
    "view_loss.js",
    "view_losses.js",
    "view_example.js",
    "chart.js",
    "view_experiments.js",
    "view_extras.js",
    "view_pictures.js",
    "glance.js",
    "view_questions.js",
    "view_header.js",
    "tour_stations.js",
    "view_tour.js",
    "view_draw.js",
    "view_train.js",
    "view_history.js",
    "main.js",
)
STYLES = ("page.css", "inspector.css", "lesson.css", "derivation.css")
TEXTS = ("", "tour.", "live.", "lesson.")  # files of the texts: i18n/en.json, i18n/tour.en.json …
LANGUAGES = ("en", "zh")


def build_page(nodes, title: str, classes, about: dict, samples=None, history=()) -> str:
    """Return the HTML text of a page.

    Parameters
    ----------
    nodes : what ``cnn.explain.collect`` returns.
    title : heading of the page. Class names and title may hold any characters; they are only ever text.
    classes : names of the classes.
    about : facts shown on the page, JSON values: label (the target), known (whether it is the truth),
        training (BatchNorm's mode), smoothing (of the run, a switch), remarks on the picture, rate (lr of the
        run), source, backend, mean, std; of a batch also labels and sources, one an image.
    samples : (images (n, C, H, W) uint8, labels) to train on in the page, or None.
    history : (step, state of the network) of earlier weights, in order.
    """
    specs, past, sizes, blocks = pack_numbers(nodes, history)
    kinds = dict.fromkeys(node.kind for node in nodes if node.kind != "Input" and not node.values_only)
    manifest = {
        "title": title,
        "classes": [str(name) for name in classes],
        "about": about,
        "nodes": specs,
        "sizes": sizes,
        "derivations": {kind: derivation(kind) for kind in kinds},
        "sources": {kind: reference_source(kind) for kind in kinds},
        "questions": questions(),
        "loops": {kind: found for kind in kinds if (found := loop_source(kind))},
    }
    if past:
        manifest["history"] = past
    if samples is not None:
        images, labels = samples
        manifest["samples"] = {
            "pixels": base64.b64encode(np.ascontiguousarray(images).tobytes()).decode("ascii"),
            "labels": [int(label) for label in labels],
        }
    style = "".join(asset(name) for name in STYLES)
    scripts = {"load": LOADER, "engine": ENGINE, "program": SCRIPTS}
    scripts = {key: '"use strict";\n' + "\n".join(map(asset, names)) for key, names in scripts.items()}
    allowed = " ".join(f"'{_hash(script)}'" for script in scripts.values())
    policy = (
        f"default-src 'none'; script-src {allowed}; worker-src blob:; "
        f"style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": escape(policy),
        "title": escape(title),
        "style": style,
        **scripts,
        "data": "\n".join([deflated(manifest), *(deflated(texts(one)) for one in LANGUAGES), *blocks]),
    }
    before, *parts = asset("page.html").split("{{")
    pieces = [before]
    for part in parts:
        name, rest = part.split("}}", 1)
        pieces += [values[name], rest]
    return "".join(pieces)


def check_size(page: str, limit_mb: float, nodes) -> None:
    """Raise ConfigError, saying what would help, if the page is larger than ``limit_mb`` megabytes."""
    size = len(page.encode()) / 1e6
    if size <= limit_mb:
        return
    weights = sum(node.stored[name].size for node in nodes for name in node.parameters)
    raise ConfigError(
        f"explain: the page would have {size:.1f} MB, expected at most {limit_mb:g}; it carries {weights:,} "
        f"weights and their gradients. Pass --max-mb {int(size) + 1}, or explain a smaller network."
    )


def texts(language: str) -> dict[str, str]:
    """Return the texts of the page in "en" or "zh"."""
    return {
        key: text for name in TEXTS for key, text in json.loads(asset(f"i18n/{name}{language}.json")).items()
    }


def questions() -> list[dict]:
    """Return the learners' questions, each ``{"en", "zh", "place"}`` and perhaps ``"answer"`` by language."""
    file = resources.files("cnn.explain").joinpath("questions.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))["question"]


def asset(name: str) -> str:
    """Return the text of a file in cnn/explain/assets."""
    return resources.files("cnn.explain").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
