"""Where a bug is planted: a function or class of the package, found by name wherever its file lies.

A place reads "folder:name", for example "reference:conv2d_forward", "fast/kernels:_max_task" or
"layers:Dropout.forward". ``folder`` is a folder or a module (without .py) below ``cnn``; ``name`` is a
function, a class, or a method of a class, defined at the top of a module; left out, the whole module.
"""

import ast
import functools
from pathlib import Path


class Misplaced(Exception):
    """A place or a text that is not there exactly once."""


def planted(root, edits):
    """Return {file: new text} for edits {"at", "old", "new"}, files relative to ``root``; write nothing.

    Raises Misplaced unless ``at`` is one definition and ``old`` occurs exactly once in it.
    """
    texts = {}
    for edit in edits:
        file, first, last = find(root, edit["at"], texts)
        lines = texts.get(file, (root / file).read_text("utf-8")).splitlines(keepends=True)
        before, part, after = lines[:first], "".join(lines[first:last]), lines[last:]
        if (count := part.count(edit["old"])) != 1 or edit["old"] == edit["new"]:
            where = f"{edit['at']} ({file})"
            raise Misplaced(f"expected its text once in {where}, found it {count} times:\n{edit['old']}")
        texts[file] = "".join([*before, part.replace(edit["old"], edit["new"]), *after])
    return texts


def find(root, place, texts=()):
    """Return (file, first line, line after the last), lines from 0, of a place; ``texts`` stand for files."""
    folder, _, name = place.partition(":")
    base = root / "cnn" / folder
    paths = sorted(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    found = []
    for path in filter(Path.is_file, paths):
        file = path.relative_to(root).as_posix()
        text = texts[file] if file in texts else path.read_text("utf-8")
        if not name:
            found.append((file, 0, text.count("\n")))
        elif name.split(".")[-1] in text:
            found += [(file, first - 1, last) for known, first, last in definitions(text) if known == name]
    if len(found) != 1:
        files = ", ".join(file for file, _, _ in found) or "nowhere"
        raise Misplaced(f"expected {place} once, found it {len(found)} times: {files}")
    return found[0]


@functools.cache
def definitions(text):
    """Return (name, first line, last line), lines from 1, of the functions, classes, methods of a module."""
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((node.name, *_lines(node)))
        if isinstance(node, ast.ClassDef):
            methods = (method for method in node.body if isinstance(method, ast.FunctionDef))
            found += [(f"{node.name}.{method.name}", *_lines(method)) for method in methods]
    return tuple(found)


def _lines(node):
    return min([node.lineno, *(d.lineno for d in node.decorator_list)]), node.end_lineno
