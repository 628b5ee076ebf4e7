"""Every bug of scripts/break_it.py can be planted, in a copy and nowhere else."""

import importlib.util
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
    spec = importlib.util.spec_from_file_location("break_it", ROOT / "scripts" / "break_it.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


@pytest.mark.parametrize(("text", "times"), [("def ", "many"), ("no such text anywhere", "0")])
def test_a_text_that_is_not_there_exactly_once_is_refused(script, text, times):
    bug = {"name": "stale", "edit": [{"file": "cnn/layers/loss.py", "old": text, "new": ""}]}
    with pytest.raises(SystemExit) as refused:
        script.planted(bug, ROOT)
    assert "stale" in str(refused.value)
    assert "cnn/layers/loss.py" in str(refused.value)
    assert ("found 0 times" in str(refused.value)) == (times == "0")


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
