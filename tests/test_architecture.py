"""What keeps the code readable: imports run downwards, public names are documented, files stay short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cnn"
FILES = sorted(PACKAGE.rglob("*.py"))

#: A module may import from lower floors and from its own package. A new module needs a floor.
FLOORS = {
    "errors": 0,
    "files": 1,
    "helptext": 2,
    "language": 1,
    "tensor_file": 1,
    "terminal": 1,
    "pixels": 0,
    "geometry": 1,
    "registry": 1,
    "metrics": 0,
    "targets": 1,
    "trace": 1,
    "reference": 1,
    "backend": 3,
    "layers": 4,
    "fast": 5,
    "summary": 7,
    "network": 8,
    "optimizers": 6,
    "__init__": 9,
    "gradcheck": 10,
    "data": 10,
    "config": 11,
    "report": 12,
    "parallel": 12,
    "training": 13,
    "explain": 14,
    "doctor": 15,
    "course": 15,
    "interop": 14,
    "inference": 15,
    "tuning": 15,
    "model": 15,
    "classifier": 16,
    "notebook": 0,
    "commands": 16,
    "cli": 17,
    "__main__": 18,
}

#: Third-party packages that only some modules may use: they are heavy, or not installed with the core.
RESTRICTED = {
    "torch": (),
    "torchvision": ("data",),
    "matplotlib": (),
    "pydantic": ("config", "training"),
    "PIL": ("data", "explain", "model", "report"),
    "scipy": (),
    "numba": ("fast", "backend"),
    "mpi4py": ("parallel",),
    "optuna": ("tuning",),
    "pyarrow": ("data", "inference"),
}


def unit(path):
    """Return the module or subpackage directly under ``cnn`` that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Return the full names of what a file imports, wherever in the file but for type checkers."""
    tree, names = ast.parse(path.read_text("utf-8")), []
    tree.body = [node for node in tree.body if not _for_checkers(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _for_checkers(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def units_imported(path):
    """Return the units of ``cnn`` that a file imports."""
    units = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "cnn":
            # "from cnn import use_backend" imports the package itself
            units.add(parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__")
    return units - {unit(path)}


def test_every_module_has_a_floor():
    assert {unit(path) for path in FILES} <= set(FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    for name in units_imported(path):
        assert FLOORS[name] < FLOORS[unit(path)], (
            f"{unit(path)} (floor {FLOORS[unit(path)]}) imports cnn.{name}"
        )


#: Within the fast wing: a module may import from lower floors and from its own folder.
FAST_FLOORS = {
    "machine": 0,
    "blocked": 1,
    "lanes": 2,
    "conv": 3,
    "kernels": 4,
    "kept": 4,
    "step": 5,
    "fusion": 6,
    "normalisation": 6,
    "pooling": 6,
    "steps": 7,
    "folding": 7,
    "engine": 8,
}


def test_imports_run_downwards_within_the_fast_wing():
    wrong = []
    for path in FILES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] != "fast" or (len(parts) == 2 and parts[1] == "__init__.py"):
            continue
        here = parts[1].removesuffix(".py")
        for name in imports(path):
            there = name.split(".")[2] if name.startswith("cnn.fast.") else here
            if there != here and FAST_FLOORS[there] >= FAST_FLOORS[here]:
                wrong.append((here, there))
    assert wrong == []


#: Who may import what is inside the fast wing; all others reach it by ``cnn.backend``.
FAST_GUESTS = {"fast", "backend"}


def test_nobody_outside_imports_what_is_inside_the_fast_wing():
    guests = {unit(path) for path in FILES if any(name.startswith("cnn.fast") for name in imports(path))}
    assert guests <= FAST_GUESTS


def test_the_reference_shares_no_code_with_the_kernels():
    for path in FILES:
        if unit(path) == "reference":
            assert units_imported(path) == set()
            assert not any(name.split(".")[0] == "numba" for name in imports(path))
        if unit(path) == "fast":
            assert "reference" not in units_imported(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_packages_stay_where_they_belong(path):
    for name in imports(path):
        package = name.split(".")[0]
        if package in RESTRICTED:
            assert unit(path) in RESTRICTED[package], f"imports {package}"


def test_import_cnn_is_light():
    """What a command does not need it does not wait for."""
    heavy = {"torch", "torchvision", "matplotlib", "pydantic", "PIL", "tqdm", "safetensors", "scipy"}
    code = "import sys, cnn; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "cnn" in loaded
    assert heavy.isdisjoint(loaded)


def is_public(name):
    return not name.startswith("_")


#: What a layer writes is described by its class and by ``Layer``, an augmentation's by ``Augmentation``.
CONTRACT = {"forward", "backward", "build", "parameters", "buffers", "children", "macs"}
CONTRACT |= {"apply", "move", "output_shape", "for_evaluation"}


def documented_methods(tree):
    """Return the names of the methods that some class of a module documents: subclasses inherit the text."""
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    methods = (m for node in classes for m in node.body if isinstance(m, ast.FunctionDef))
    return {method.name for method in methods if ast.get_docstring(method)}


def undocumented(tree):
    """Yield the public names of a module that lack a docstring."""
    if ast.get_docstring(tree) is None:
        yield "the module"
    inherited = CONTRACT | documented_methods(tree)
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not is_public(node.name):
            continue
        if ast.get_docstring(node) is None:
            yield node.name
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if not isinstance(method, ast.FunctionDef) or not is_public(method.name):
                continue
            setter = any(isinstance(d, ast.Attribute) and d.attr == "setter" for d in method.decorator_list)
            if not (setter or ast.get_docstring(method) or (node.bases and method.name in inherited)):
                yield f"{node.name}.{method.name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_are_documented(path):
    assert list(undocumented(ast.parse(path.read_text("utf-8")))) == []


@pytest.mark.parametrize(
    "name", ["Conv2d", "MaxPool2d", "BatchNorm2d", "Linear", "Residual", "Dropout", "GELU"]
)
def test_a_layers_docstring_has_equation_shapes_and_source(name):
    import cnn.layers

    text = getattr(cnn.layers, name).__doc__
    for part in ("=", "dx", "Shapes\n", "References\n"):
        assert part in text


def test_every_layer_documents_its_shapes_and_its_arguments():
    import inspect

    from cnn.layers import layer_types

    for kind in layer_types().values():
        text = inspect.getdoc(kind)
        assert "Shapes\n" in text, kind
        parameters = [p for p in inspect.signature(kind).parameters if kind.__init__ is not object.__init__]
        for parameter in parameters:
            assert parameter in text, f"{kind.__name__}: {parameter}"


@pytest.mark.parametrize(("folder", "most"), [("cnn", 450), ("scripts", 450), ("tests", 550)])
def test_files_stay_short(folder, most):
    files = (PACKAGE.parent / folder).rglob("*.py")
    lines = {str(f.relative_to(PACKAGE.parent)): len(f.read_text("utf-8").splitlines()) for f in files}
    assert {name: n for name, n in lines.items() if n > most} == {}


def test_every_exported_name_exists():
    import cnn.fast.kernels
    import cnn.layers
    import cnn.reference

    for module in (cnn, cnn.fast.kernels, cnn.layers, cnn.reference):
        assert len(set(module.__all__)) == len(module.__all__)
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"
