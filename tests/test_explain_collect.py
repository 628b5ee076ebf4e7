"""What ``cnn explain`` collects: the product's own numbers, one node a layer."""

import re
from xml.etree import ElementTree

import helpers_explain as h
import numpy as np
import pytest

import cnn
from cnn import layers
from cnn.errors import ConfigError, ShapeError
from cnn.explain import collect
from cnn.explain.derivations import derivation, kinds, losses, reference_source
from cnn.explain.mathml import to_mathml
from cnn.explain.page import LANGUAGES, SCRIPTS, check_size, texts


def test_the_nodes_hold_what_the_network_itself_computes(backend):
    network, x = h.make_network(), h.make_image()
    nodes = collect(network, x, h.LABEL)
    other, criterion = h.make_network(), layers.SoftmaxCrossEntropy()
    logits = np.asarray(other.forward(x[None]))
    loss = criterion.forward(logits, np.array([h.LABEL]))
    other.zero_grad()
    dx = np.asarray(other.backward(criterion.backward()))
    np.testing.assert_allclose(nodes[-2].stored["y"], logits[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(nodes[-1].stored["y"], [loss], rtol=1e-5)
    np.testing.assert_allclose(nodes[0].stored["dy"], dx[0], rtol=1e-4, atol=1e-5)
    collected = {f"{n.name}.{p}": n.stored["d" + p] for n in nodes for p in n.parameters}
    gradients = {f"{name}.{p.name}": p.grad for name, layer in other.walk() if not layer.children()
                 for p in layer.parameters()}  # fmt: skip
    assert collected.keys() == gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(collected[name], gradient, rtol=1e-4, atol=1e-5, err_msg=name)


def test_every_kind_of_layer_is_in_the_test_network_and_has_a_derivation():
    simple = set(layers.layer_types()) - {"Sequential", "Residual", "Concat", "Graph"}
    assert {node.kind for node in h.make_nodes()} == {*kinds(), "Input"}
    assert not any(node.values_only for node in h.make_nodes())
    assert set(kinds()) <= simple | {"Add", "Concat", "Mul", "Loss"}


def test_each_number_agrees_with_the_reference_on_the_same_inputs():
    nodes = h.make_nodes()
    for (node_id, tensor), values in h.expected_numbers(nodes).items():
        stored, what = nodes[node_id].stored[tensor], f"{nodes[node_id].kind} {tensor}"
        np.testing.assert_allclose(stored, values, rtol=1e-4, atol=2e-5 * np.abs(values).max(), err_msg=what)


def test_training_mode_uses_the_image_in_batch_norm_and_keeps_the_running_statistics():
    network = cnn.Network([layers.BatchNorm2d(), layers.Dropout(0.5), layers.Flatten(), layers.Linear(3)])
    network.build((2, 4, 4))
    before = {name: value.copy() for name, value in network.state().items()}
    x = np.random.default_rng(0).normal(5, 3, (2, 4, 4)).astype(np.float32)
    nodes = collect(network, x, 1, training=True)
    y = nodes[1].stored["y"]
    np.testing.assert_allclose(y.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_array_equal(nodes[2].stored["y"], y)
    for name, value in network.state().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_label_smoothing_reaches_the_target():
    *_, loss = h.make_nodes(label_smoothing=0.07)
    np.testing.assert_allclose(
        loss.stored["target"], np.where(np.arange(7) == h.LABEL, 0.94, 0.01), rtol=1e-6
    )


def test_unfit_images_labels_and_layers_are_refused():
    network = h.make_network()
    with pytest.raises(ShapeError, match=r"takes \(2, 12, 12\)"):
        collect(network, np.zeros((1, 12, 12)), 0)
    with pytest.raises(ConfigError, match="label from 0 to 6, found 7"):
        collect(network, h.make_image(), 7)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: layers.MaxPool2d(2, ceil_mode=True), "MaxPool2d"),
        (lambda: layers.AvgPool2d(2), "AvgPool2d"),
        (lambda: type("Own", (layers.ReLU,), {})(), "Own"),
        (lambda: type("ReLU", (layers.ReLU,), {"__module__": "mine"})(), "ReLU (mine)"),
        (lambda: type("Pair", (layers.Sequential,), {})([layers.PReLU(), layers.PReLU(2)]), "Pair"),
    ],
)
def test_a_layer_that_the_page_cannot_compute_is_a_node_of_values(make, kind):
    network = cnn.Network([make(), layers.Flatten(), layers.Linear(3)])
    network.build((2, 5, 5))
    x = np.random.default_rng(0).standard_normal((2, 5, 5)).astype(np.float32)
    node = collect(network, x, 1)[1]
    assert node.kind == kind
    assert node.values_only == (kind not in ("AvgPool2d", "MaxPool2d"))
    assert ("dx0" in node.stored) == node.values_only
    for name in node.parameters:
        assert node.stored[name].shape == node.stored["d" + name].shape


def test_a_page_over_the_cap_says_what_would_help():
    nodes = h.make_nodes()
    page = h.make_page(nodes)
    check_size(page, 1, nodes)
    with pytest.raises(
        ConfigError, match=r"expected at most 0.1; .*weights and their gradients.*--max-mb 1,"
    ):
        check_size(page, 0.1, nodes)


@pytest.mark.parametrize("kind", [*kinds(), *losses()])
def test_every_derivation_leads_from_definition_to_backward_in_both_languages(kind):
    steps = derivation(kind)
    ids = [step["id"] for step in steps if step["id"]]
    assert {"forward", "dx"} <= set(ids)
    assert len(ids) == len(set(ids))
    for step in steps:
        assert step["math"]["en"].startswith("<math")
        assert step["en"]
        assert re.search(r"[\u4e00-\u9fff]", step["zh"])
    assert all(source["source"].startswith("def ") for source in reference_source(kind))


#: How many children each of these elements must have.
ARITY = {"mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3}


@pytest.mark.parametrize("kind", [*kinds(), *losses()])
def test_every_formula_and_text_is_well_formed(kind):
    for step in derivation(kind):
        formulas = [f for name in ("math", "without_bias") for f in (step[name] or {}).values()]
        for markup in (*formulas, f"<p>{step['en']}</p>", f"<p>{step['zh']}</p>"):
            for element in ElementTree.fromstring(markup).iter():
                assert len(element) == ARITY.get(element.tag, len(element)), markup


@pytest.mark.parametrize("kind", [*kinds(), *losses()])
def test_a_chinese_page_has_no_english_words_in_its_formulas(kind):
    for step in derivation(kind):
        for formula in (step["math"], step["without_bias"]):
            chinese = formula and formula.get("zh", formula["en"])
            assert not re.search(r"<mtext>[^<]*[A-Za-z]{2}", chinese or "")


def test_a_layer_without_bias_has_a_formula_without_one():
    for kind in ("Conv2d", "ConvTranspose2d", "Linear"):
        forward = next(step for step in derivation(kind) if step["id"] == "forward")
        assert '<mi>b</mi><mo stretchy="false">[' in forward["math"]["en"]
        assert '<mi>b</mi><mo stretchy="false">[' not in forward["without_bias"]["en"]
        assert {step["id"] for step in derivation(kind) if step["needs"] == "bias"} >= {"dbias"}


def test_formulas_become_mathml():
    assert to_mathml(r"\frac{a}{2}", block=False) == (
        '<math display="inline"><mfrac><mi>a</mi><mn>2</mn></mfrac></math>'
    )
    assert "<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover>" in to_mathml(r"\sum_i^n x_i")
    assert to_mathml(r"\text{if a < b}") == '<math display="block"><mtext>if a &lt; b</mtext></math>'
    assert to_mathml(r"a \\ b").count("<mtr>") == 2
    assert "<mtext>其他</mtext>" in to_mathml(r"\text{otherwise}{其他} x", language="zh")
    assert "<mtext>otherwise</mtext>" in to_mathml(r"\text{otherwise}{其他} x")


@pytest.mark.parametrize("wrong", [r"\nothing", "x_", "{a", r"\text a", "}"])
def test_a_formula_outside_the_grammar_is_refused(wrong):
    with pytest.raises(ValueError, match=r"in|early|expected"):
        to_mathml(wrong)


def assets():
    from importlib import resources

    folder = resources.files("cnn.explain").joinpath("assets")
    return {name: folder.joinpath(name).read_text(encoding="utf-8") for name in SCRIPTS}


def test_both_languages_have_every_text_with_the_same_places_for_values():
    english, chinese = (texts(language) for language in LANGUAGES)
    assert list(english) == list(chinese)
    for name, text in english.items():
        assert text.strip()
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[name])), name
        # what reads the same in both languages is a formula or a name
        if not re.search(r"[\u4e00-\u9fff]", chinese[name]):
            assert chinese[name] == text, name
            assert not re.search(r"[a-z]{4,}", text.replace("Grad", "")), name


def test_the_page_uses_exactly_the_texts_there_are():
    source = "\n".join(assets().values())
    used = set(re.findall(r'"((?:[a-z]+\.)+[A-Za-z0-9]+|branch|skip)"', source))
    families = set(re.findall(r"`([a-z]+\.(?:[a-z]+\.)?)\$\{", source))
    known = set(texts("en"))
    asked = {name for name in used if name.split(".")[0] in {k.split(".")[0] for k in known}}
    assert not {name for name in asked if name not in known}
    assert not {name for name in known - used if not any(name.startswith(family) for family in families)}


def test_the_manifest_cannot_leave_its_element():
    page = h.make_page(h.make_nodes(), title="</script><b>", classes=["</script><script>x()</script>"] * 7)
    assert h.manifest(page)["title"] == "</script><b>"
    assert page.count("</script>") == 4
