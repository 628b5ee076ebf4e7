"""The page that runs cnn in the browser: by Pyodide, from disk, with the numbers of native NumPy."""

import contextlib
import io
import json
import sys
import tomllib
from pathlib import Path

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn.course import find_exercise

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = str(ROOT / "scripts")
CELLS = ROOT / "scripts" / "website" / "assets" / "cells"
#: What the cells leave behind, as JSON.
NUMBERS = """
import json
print(json.dumps({
    "back": back.tolist(), "ok": report.ok, "counts": report.counts(), "losses": losses,
    "weights": [float(np.linalg.norm(p.data)) for p in network.parameters()],
}))
"""


@pytest.fixture(scope="module")
def website():
    for package in ("mistune", "pygments"):
        pytest.importorskip(package, reason='needs the extra "site"')
    sys.path.insert(0, SCRIPTS)
    from website import browser, pyodide, shell

    yield {"browser": browser, "pyodide": pyodide, "shell": shell}
    sys.path.remove(SCRIPTS)


@pytest.fixture(scope="module")
def site(website, tmp_path_factory):
    """Return a folder with this page in both languages."""
    try:
        files = website["pyodide"].obtain()
    except website["pyodide"].Missing as error:
        pytest.skip(str(error))
    out, shell = tmp_path_factory.mktemp("python"), website["shell"]
    (out / "assets").mkdir()
    (out / "assets" / "style.css").write_text(shell.palette() + shell.asset("style.css"), encoding="utf-8")
    for name in ("shell.js", "browser.js"):
        (out / "assets" / name).write_text(shell.asset(name), encoding="utf-8")
    carried = website["browser"].build(ROOT, out, files)
    for language in shell.LANGUAGES:
        shell.write(out, website["browser"].page(language, carried))
    return out


@pytest.fixture(scope="module")
def page(browser, site):
    """Return the Chinese page with Python started; nothing may have complained or asked outside."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, complaints, requests = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((site / "zh" / "python.html").as_uri())
    yield page
    context.close()
    assert complaints == []
    assert not [url for url in requests if not url.startswith(("file:", "data:", "blob:"))]


def run(page, cell, code=None):
    """Run a cell, with other code if given; return what it printed."""
    if code is not None:
        page.fill(f"#cell-{cell} textarea", code)
    page.evaluate(f"document.getElementById('cell-{cell}').dataset.result = ''")
    page.click(f"#cell-{cell} button")
    page.wait_for_selector(
        f"#cell-{cell}:is([data-result=right], [data-result=wrong])", state="attached", timeout=240_000
    )
    return page.inner_text(f"#cell-{cell} .output")


def judged(page, name, code):
    """Return (status, text of the marks) of an answer."""
    page.select_option("#which", name)
    page.fill("#answer", code)
    page.evaluate("document.getElementById('marks').dataset.status = ''")
    page.click("#check")
    page.wait_for_selector("#marks:not([data-status=''])", timeout=120_000)
    return page.get_attribute("#marks", "data-status"), page.inner_text("#marks")


def native():
    """Return the numbers that the cells leave behind when this process executes them."""
    space, printed = {"plot": lambda values: None}, io.StringIO()
    with cnn.use_backend("reference"), contextlib.redirect_stdout(io.StringIO()):
        for name in ("origin", "gradcheck", "training"):
            exec((CELLS / f"{name}.py").read_text(encoding="utf-8"), space)
        with contextlib.redirect_stdout(printed):
            exec(NUMBERS, space)
    return json.loads(printed.getvalue())


def test_the_cells_end_with_the_numbers_of_native_numpy(page):
    assert "[[ 0.1   0.2  -0.75  0.4   0.05]]" in run(page, "origin")  # starts Python too
    assert "NumPy" in page.inner_text("#state")
    assert "passed: " in run(page, "gradcheck")
    assert run(page, "training").count("loss") == 20
    assert page.locator("#cell-training svg polyline").count() == 1
    found, expected = json.loads(run(page, "origin", NUMBERS)), native()
    np.testing.assert_allclose(found["back"], [[0.1, 0.2, -0.75, 0.4, 0.05]], atol=1e-12)
    assert found["ok"]
    assert found["counts"] == expected["counts"]
    assert found["losses"][-1] < 0.8 * found["losses"][0]
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-9)
    np.testing.assert_allclose(found["weights"], expected["weights"], rtol=1e-9)


def test_exercises_are_marked_and_mistakes_recognised(page):
    name = "softmax_jacobian"
    wrong = tomllib.loads((ROOT / "tests" / "solutions" / "wrong.toml").read_text(encoding="utf-8"))[name][0]
    solution = (ROOT / "tests" / "solutions" / f"{name}.py").read_text(encoding="utf-8")
    page.select_option("#which", name)
    assert judged(page, name, page.input_value("#answer"))[0] == "not filled in"
    status, text = judged(page, name, solution.replace(wrong["old"], wrong["new"]))
    assert status == "failed"
    assert find_exercise(name).mistakes[wrong["mistake"]]["zh"] in text
    status, text = judged(page, name, solution)
    assert status == "passed"
    assert "全部通过" in text
    assert judged(page, name, "def (")[0] == "broken"


def test_a_link_to_an_exercise_keeps_it_in_the_other_language(browser, site):
    context = browser.new_context()
    page = context.new_page()
    page.goto((site / "en" / "python.html").as_uri() + "#conv_dx")
    assert page.input_value("#which") == "conv_dx"
    page.select_option("#which", "momentum")
    page.wait_for_function("document.getElementById('twin').href.endsWith('zh/python.html#momentum')")
    page.click("#twin")
    page.wait_for_selector("html[lang=zh-CN]")
    assert page.input_value("#which") == "momentum"
    assert find_exercise("momentum").title["zh"] in page.input_value("#answer")
    context.close()


def test_an_endless_loop_can_be_stopped(page):
    page.fill("#cell-origin textarea", "while True: pass")
    page.click("#cell-origin button")
    page.click("#stop", timeout=60_000)
    page.wait_for_selector("#python[data-state=ready]", timeout=240_000)
    assert run(page, "origin", "1 + 1").strip() == "2"
    assert "NameError" in run(page, "origin", "losses")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_axe_finds_nothing_serious(browser, site, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.goto((site / "en" / "python.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate(h.axe_source())
    found = page.evaluate("axe.run(document, { preload: false }).then((result) => result.violations)")
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []
    context.close()


def test_files_that_are_not_pyodides_are_refused(website, tmp_path):
    pyodide = website["pyodide"]
    with pytest.raises(pyodide.Missing, match=r"pyodide\.js: no such file"):
        pyodide.read(tmp_path)
    (tmp_path / "pyodide.js").write_text("another one")
    with pytest.raises(pyodide.Missing, match="SHA-256 differs"):
        pyodide.read(tmp_path)


def test_without_pyodide_the_page_says_what_is_missing(website):
    for language, instead in (("en", "nothing installed"), ("zh", "什么都不安装")):
        body = website["browser"].page(language, None, "DIR/pyodide.js: no such file").body
        assert instead in body
        assert "DIR/pyodide.js: no such file" in body
        for name, digest in website["pyodide"].FILES.items():
            assert name in body
            assert digest in body
        assert "<textarea" not in body
