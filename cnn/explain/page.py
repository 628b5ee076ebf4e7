"""Turns collected nodes into one HTML file that needs nothing else: no network, no library, no server."""

import base64
import hashlib
import json
import tomllib
import zlib
from html import escape
from importlib import resources

import numpy as np

from cnn.errors import ConfigError
from cnn.explain.derivations import derivation, loop_source, reference_source

__all__ = ["build_page", "check_size", "questions", "texts"]

# In the order in which they build on each other; all share one scope. The engine also runs in a worker.
ENGINE = (
    "shapes.js",
    "engine_rows.js",
    "engine_window.js",
    "engine_point.js",
    "engine_batch.js",
    "optimizers.js",
    "trainer.js",
)
SCRIPTS = (
    "data.js",
    "dom.js",
    "engine.js",
    "terms.js",
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
    specs, past, blob = _pack(nodes, history)
    kinds = dict.fromkeys(node.kind for node in nodes if node.kind != "Input" and not node.values_only)
    manifest = {
        "title": title,
        "classes": [str(name) for name in classes],
        "about": about,
        "nodes": specs,
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
    style = "".join(_asset(name) for name in STYLES)
    engine, script = ('"use strict";\n' + "\n".join(map(_asset, names)) for names in (ENGINE, SCRIPTS))
    policy = (
        f"default-src 'none'; script-src '{_hash(engine)}' '{_hash(script)}'; worker-src blob:; "
        f"style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": escape(policy),
        "title": escape(title),
        "style": style,
        "engine": engine,
        "script": script,
        "manifest": _json(manifest),
        "texts": _json({language: texts(language) for language in LANGUAGES}),
        "blob": base64.b64encode(blob).decode("ascii"),
    }
    before, *parts = _asset("page.html").split("{{")
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
    share = 2 * weights * 4 * 4 / 3 / 1e6
    raise ConfigError(
        f"explain: the page would have {size:.1f} MB, expected at most {limit_mb:g}; {share:.1f} MB "
        f"of it are {weights:,} weights and their gradients. "
        f"Pass --max-mb {int(size) + 1}, or explain a smaller network."
    )


def texts(language: str) -> dict[str, str]:
    """Return the texts of the page in "en" or "zh"."""
    return {
        key: text for name in TEXTS for key, text in json.loads(_asset(f"i18n/{name}{language}.json")).items()
    }


def questions() -> list[dict]:
    """Return the learners' questions, each ``{"en", "zh", "place"}`` and perhaps ``"answer"`` by language."""
    file = resources.files("cnn.explain").joinpath("questions.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))["question"]


def _asset(name: str) -> str:
    return resources.files("cnn.explain").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json(value) -> str:
    """JSON that cannot leave its ``<script>`` element, whatever the names in it are."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _pack(nodes, history):
    """Return the JSON form of nodes and history, and all their numbers as one block of little-endian float32.

    Equal arrays (a Flatten's input and output) are stored once.
    """
    blob, places, specs, past = bytearray(), {}, [], []

    def put(array):
        data = np.ascontiguousarray(array, dtype="<f4").tobytes()
        offset = places.setdefault(data, len(blob) // 4)
        if offset * 4 == len(blob):
            blob.extend(data)
        return {
            "shape": list(array.shape),
            "offset": offset,
            "size": int(array.size),
            "crc": zlib.crc32(data),
        }

    for node in nodes:
        specs.append(
            {
                "id": node.id,
                "name": node.name,
                "kind": node.kind,
                "inputs": node.inputs,
                "shape": list(node.stored["y"].shape),
                "attrs": node.attributes,
                "stored": {name: put(array) for name, array in node.stored.items()},
                "parameters": node.parameters,
                "buffers": node.buffers,
                "values_only": node.values_only,
            }
        )
        if len(node.batch) > 1:
            specs[-1]["batch"] = [{name: put(array) for name, array in own.items()} for own in node.batch]
    for step, state in history:
        arrays = [
            {name: put(state[f"{node.name}.{name}"]) for name in (*node.parameters, *node.buffers)}
            for node in nodes
        ]
        past.append({"step": step, "nodes": arrays})
    return specs, past, bytes(blob)
