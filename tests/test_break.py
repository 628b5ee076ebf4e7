"""Every bug of `cnn break` can be planted, in a copy and nowhere else; the guess comes before the diff."""

import io
import tomllib
from pathlib import Path

import pytest

from cnn import cli
from cnn.course import breaking, planting
from cnn.errors import ConfigError
from cnn.layers import from_config
from cnn.network import Network

ROOT = Path(__file__).resolve().parent.parent
BUGS = breaking.bugs()


def test_there_are_a_dozen_and_more(capsys):
    assert len(BUGS) >= 12
    assert cli.main(["break", "list"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name} " in out for name in BUGS)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_every_bug_can_be_planted_and_is_valid_python(bug):
    for file, text in breaking.planted(bug).items():
        compile(text, file, "exec")
        assert text != (ROOT / file).read_text(encoding="utf-8")
    for texts in (bug.what, bug.lesson):
        assert texts["en"].isascii() or "−" in texts["en"]
        assert any("\u4e00" <= c <= "\u9fff" for c in texts["zh"])
    assert set(bug.seen_by) <= set(breaking.WITNESSES)
    assert any(line[0] in "+-" for line in breaking.difference(bug)[2:])


@pytest.mark.parametrize("name", breaking.networks())
def test_the_networks_fit_the_sample(name):
    assert Network(from_config(breaking.networks()[name])).build((1, 28, 28)) == (10,)
    assert any(bug.network == name for bug in BUGS.values())


@pytest.mark.parametrize(("text", "times"), [("ops", "many"), ("no such text anywhere", "0")])
def test_a_text_that_is_not_there_exactly_once_is_refused(text, times):
    edit = {"at": "layers:SoftmaxCrossEntropy.backward", "old": text, "new": ""}
    with pytest.raises(ConfigError) as refused:
        breaking.planted(breaking.Bug("stale", {}, {}, "plain", (), (edit,)))
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
def package(tmp_path):
    (tmp_path / "cnn" / "wing" / "deep").mkdir(parents=True)
    (tmp_path / "cnn" / "wing" / "deep" / "module.py").write_text(MODULE)
    (tmp_path / "cnn" / "other.py").write_text("def first(x):\n    return x + 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("at", "line"),
    [("wing:first", 2), ("wing/deep:second", 7), ("wing/deep/module:Third.first", 12), ("other:first", 1)],
)
def test_a_place_is_found_by_name_in_whichever_file_it_lies(package, at, line):
    ((file, text),) = planting.planted(package, [{"at": at, "old": "+ 1", "new": "+ 2"}]).items()
    lines = (package / file).read_text().splitlines()
    changed = [i for i, pair in enumerate(zip(lines, text.splitlines(), strict=True)) if len(set(pair)) > 1]
    assert changed == [line]


@pytest.mark.parametrize("at", ["wing:Third", "wing:fourth", "wing:deep", "nowhere:first", ":first"])
def test_a_place_that_is_not_one_definition_is_refused(package, at):
    (package / "cnn" / "wing" / "twin.py").write_text("class Third:\n    pass\n")
    with pytest.raises(planting.Misplaced):
        planting.planted(package, [{"at": at, "old": "+ 1", "new": "+ 2"}])


def test_edits_of_one_file_add_up(package):
    edits = [{"at": f"wing:{name}", "old": "+ 1", "new": "+ 2"} for name in ("first", "second")]
    (text,) = planting.planted(package, edits).values()
    assert text.count("+ 2") == 2


def test_every_bug_of_the_mutation_check_can_be_planted_and_is_valid_python():
    mutations = tomllib.loads((ROOT / "scripts" / "mutations.toml").read_text(encoding="utf-8"))["mutation"]
    assert len(mutations) > 180
    for mutation in mutations:
        for file, text in planting.planted(ROOT, [mutation]).items():
            compile(text, file, "exec")
        files = [test for test in mutation["tests"] if test.startswith("tests/")]
        assert files
        assert all((ROOT / file).exists() for file in files), mutation["what"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["momentum-sing"], 'Did you mean "momentum-sign"?'),
        (["guess"], "expected the name of a bug"),
        (["guess", "momentum-sign", "--out", "nowhere"], "no such file"),
        (["momentum-sign", "again"], "only after guess"),
        (["--epochs", "0"], "--epochs"),
    ],
)
def test_a_wrong_call_gets_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["break", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quick(monkeypatch):
    """One small network; doctor and page, commands with tests of their own, are not run again."""
    small = [{"type": "Flatten"}, {"type": "Linear", "out_features": 10}]
    monkeypatch.setattr(
        breaking, "networks", lambda: dict.fromkeys(("plain", "batch_norm", "dropout"), small)
    )
    monkeypatch.setattr(breaking, "ask_doctor", lambda copy: ["23 OK", "FAIL overfits 32 images: 29 wrong"])
    monkeypatch.setattr(breaking, "ask_page", lambda copy, right, options: ["All values agree."])


def test_a_chosen_bug_shows_in_the_curve_and_in_the_gradient_check(quick, tmp_path, capsys):
    before = {path: path.read_bytes() for path in (ROOT / "cnn").rglob("*.py")}
    assert cli.main(["break", "missing-one-over-n", "--epochs", "1", "--out", str(tmp_path / "kept")]) == 0
    out = capsys.readouterr().out
    assert "the 1/N is missing" in out
    assert out.index("(probabilities, rows, 1.0)") < out.index("  right ") < out.index("  broken ")
    assert (tmp_path / "kept" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path: path.read_bytes() for path in (ROOT / "cnn").rglob("*.py")} == before


def test_blind_the_evidence_comes_without_a_name_and_the_diff_after_the_guess(quick, tmp_path, capsys):
    out = tmp_path / "kept"
    assert cli.main(["break", "--seed", "3", "--epochs", "1", "--out", str(out)]) == 0
    evidence = capsys.readouterr().out
    hidden = next(bug for bug in BUGS.values() if _secret(bug) == (out / "secret").read_text().strip())
    assert "gradient check:" in evidence
    for text in (hidden.name, hidden.what["en"], "@@"):
        assert text not in evidence
    other = next(name for name in BUGS if name != hidden.name)
    assert cli.main(["break", "guess", other, "--out", str(out)]) == 5
    assert "Not that one." in capsys.readouterr().out
    assert cli.main(["break", "guess", hidden.name, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Right." in told
    assert hidden.what["en"] in told
    assert "@@" in told


def _secret(bug):
    import hashlib

    return hashlib.sha256(f"cnn break {bug.name}".encode()).hexdigest()


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_at_a_terminal_it_asks_and_then_tells(quick, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", _Terminal("nonsense\nmissing-bias-gradient\n"))
    arguments = ["--seed", "3", "--epochs", "1", "--out", str(tmp_path), "--language", "zh"]
    assert cli.main(["break", *arguments]) == 0
    out = capsys.readouterr().out
    assert "埋的是哪一个错误？" in out
    assert out.count("编号") == 2
    assert "猜对了" in out or "不是这个" in out
    assert "@@" in out[out.index("编号") :]


def test_a_loss_that_is_not_finite_is_drawn_as_a_cross():
    from importlib import import_module

    draw = import_module("cnn.commands.break")._curves
    right, broken, _ = draw({"right": [2.0, 1.0] * 60, "broken": [2.0, None] * 60}).splitlines()
    assert "×" not in right
    assert broken.count("×") == 60
