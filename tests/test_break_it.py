"""Every bug of scripts/break_it.py can be planted, in a copy and nowhere else."""

import importlib
import sys
import tomllib
from pathlib import Path

import pytest

from cnn.layers import from_config
from cnn.network import Network

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = tomllib.loads((ROOT / "scripts" / "break_it.toml").read_text(encoding="utf-8"))
BUGS = {bug["name"]: bug for bug in DOCUMENT["bug"]}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("break_it")
    sys.path.remove(str(ROOT / "scripts"))


def test_there_are_a_dozen_and_more(script, capsys):
    assert len(BUGS) >= 12
    assert script.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in BUGS)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_every_bug_can_be_planted_and_is_valid_python(bug, script):
    for file, text in script.planted(bug, ROOT).items():
        compile(text, file, "exec")
        assert text != (ROOT / file).read_text(encoding="utf-8")
    assert bug["lesson"].strip()
    assert set(bug["seen_by"]) <= {"gradient check", "doctor", "page"}


@pytest.mark.parametrize("name", DOCUMENT["networks"])
def test_the_networks_fit_the_sample(name):
    assert Network(from_config(DOCUMENT["networks"][name])).build((1, 28, 28)) == (10,)
    assert any(bug["network"] == name for bug in BUGS.values())


@pytest.mark.parametrize(("text", "times"), [("ops", "many"), ("no such text anywhere", "0")])
def test_a_text_that_is_not_there_exactly_once_is_refused(script, text, times):
    edit = {"at": "layers:SoftmaxCrossEntropy.backward", "old": text, "new": ""}
    with pytest.raises(SystemExit) as refused:
        script.planted({"name": "stale", "edit": [edit]}, ROOT)
    assert "stale" in str(refused.value)
    assert "cnn/layers/loss.py" in str(refused.value)
    assert ("found it 0 times" in str(refused.value)) == (times == "0")


MODULE = """
def first(x):
    return x + 1


@decorated
def second(x):
    return x + 1


class Third:
    def first(self, x):
        return x + 1
"""


@pytest.fixture
def package(tmp_path, script):
    (tmp_path / "cnn" / "wing" / "deep").mkdir(parents=True)
    (tmp_path / "cnn" / "wing" / "deep" / "module.py").write_text(MODULE)
    (tmp_path / "cnn" / "other.py").write_text("def first(x):\n    return x + 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("at", "line"),
    [("wing:first", 2), ("wing/deep:second", 7), ("wing/deep/module:Third.first", 12), ("other:first", 1)],
)
def test_a_place_is_found_by_name_in_whichever_file_it_lies(script, package, at, line):
    ((file, text),) = script.planting.planted(package, [{"at": at, "old": "+ 1", "new": "+ 2"}]).items()
    lines = (package / file).read_text().splitlines()
    changed = [i for i, pair in enumerate(zip(lines, text.splitlines(), strict=True)) if len(set(pair)) > 1]
    assert changed == [line]


@pytest.mark.parametrize("at", ["wing:Third", "wing:fourth", "wing:deep", "nowhere:first", ":first"])
def test_a_place_that_is_not_one_definition_is_refused(script, package, at):
    (package / "cnn" / "wing" / "twin.py").write_text("class Third:\n    pass\n")
    with pytest.raises(script.planting.Misplaced):
        script.planting.planted(package, [{"at": at, "old": "+ 1", "new": "+ 2"}])


def test_edits_of_one_file_add_up(script, package):
    edits = [{"at": f"wing:{name}", "old": "+ 1", "new": "+ 2"} for name in ("first", "second")]
    (text,) = script.planting.planted(package, edits).values()
    assert text.count("+ 2") == 2


def test_every_bug_of_the_mutation_check_can_be_planted_and_is_valid_python(script):
    mutations = tomllib.loads((ROOT / "scripts" / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
    assert len(mutations) > 180
    for mutation in mutations:
        for file, text in script.planting.planted(ROOT, [mutation]).items():
            compile(text, file, "exec")
        files = [test for test in mutation["tests"] if test.startswith("tests/")]
        assert files
        assert all((ROOT / file).exists() for file in files), mutation["what"]


def test_an_unknown_name_gets_a_suggestion(script, capsys):
    assert script.main(["momentum-sing"]) == 2
    assert 'Did you mean "momentum-sign"?' in capsys.readouterr().err


def test_a_planted_bug_shows_in_the_curve_and_in_the_gradient_check(script, tmp_path, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in (ROOT / "cnn").rglob("*.py")}
    # these two are commands of their own with tests of their own; here they would only take time
    monkeypatch.setattr(script, "doctor", lambda copy: ["23 OK", "FAIL overfits 32 images: 29 wrong"])
    monkeypatch.setattr(script, "banner", lambda copy, right, options: ["All values agree."])
    bug = {**BUGS["missing-one-over-n"], "seen_by": ["gradient check", "doctor"]}
    small = [{"type": "Flatten"}, {"type": "Linear", "out_features": 10}]
    code = script.show(bug, {"plain": small}, tmp_path / "scratch", 1, tmp_path / "kept")
    out = capsys.readouterr().out
    assert code == 0
    assert "the 1/N is missing" in out
    assert out.index("  right ") < out.index("  broken ")
    assert (tmp_path / "kept" / "missing-one-over-n.png").read_bytes().startswith(b"\x89PNG")
    assert {path: path.read_bytes() for path in (ROOT / "cnn").rglob("*.py")} == before


def test_a_loss_that_is_not_finite_is_drawn_as_a_cross(script):
    results = {"right": ([2.0, 1.0] * 60, []), "broken": ([2.0, None] * 60, [])}
    right, broken, _ = script.curves(results).splitlines()
    assert "×" not in right
    assert broken.count("×") == script.COLUMNS
