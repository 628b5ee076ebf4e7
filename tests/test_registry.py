"""One mechanism for ``{type = "NAME", ...}``: what a type takes is read from its constructor."""

import inspect
from typing import Annotated

import numpy as np
import pytest

from cnn.config import json_schema
from cnn.config.load import resolve
from cnn.errors import ArgumentError, ConfigError
from cnn.layers import LAYERS, Layer, ReLU
from cnn.metrics import confusion_matrix
from cnn.optimizers import AVERAGES, OPTIMIZERS, SCHEDULES
from cnn.registry import Count, Fraction, Range, Rate, Registry, Share, check, checked, words
from cnn.training.experiment import input_shape


class Shift(Layer):
    """What another package may define: y = x + amount."""

    def __init__(self, amount: float, *, sides: tuple[int, int] = (1, 1)):
        self.amount, self.sides = float(amount), sides

    def forward(self, x, training=False):
        return self._keep(self._receive(x) + self.amount)

    def backward(self, dy):
        return self._saved(dy)[1]


SHIFT = f"{__name__}:Shift"


@pytest.mark.parametrize("path", [SHIFT, f"{__name__}.Shift"])
def test_a_dotted_path_names_a_layer_of_ones_own(path):
    layer = LAYERS.make({"type": path, "amount": 2, "sides": [3, 4]})
    assert type(layer) is Shift
    assert layer.sides == (3, 4)
    assert LAYERS.find(LAYERS.name_of(Shift)) is Shift
    assert LAYERS.find(LAYERS.name_of(ReLU)) is ReLU


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "no_such_package:Swirl"}, "cannot import no_such_package: .*PYTHONPATH"),
        ({"type": f"{__name__}:Swirl"}, "expected a subclass of Layer"),
        ({"type": "subprocess:Popen", "args": "true"}, "expected a subclass of Layer"),
        ({"type": ":Swirl"}, 'expected a known layer or "package.module:Class"'),
        ({"type": SHIFT}, '"amount" is missing'),
        ({"type": SHIFT, "amont": 1}, 'unknown argument "amont". Did you mean "amount"'),
        ({"type": 3}, "layer type: found 3"),
        ("ReLU", "layer: expected a table"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(spec, message):
    with pytest.raises(ConfigError, match=message):
        LAYERS.make(spec)


def config(**sections):
    """Return the Config of a small model with some sections replaced."""
    layers = [{"type": "Flatten"}, {"type": "Linear", "out_features": 10}]
    document = {
        "data": {"dataset": "sample"},
        "model": {"layers": layers},
        "optimizer": {"type": "SGD", "lr": 0.1},
    }
    return resolve({**document, **sections}, "mine.toml")


def test_a_config_checks_a_layer_of_ones_own_as_any_other():
    good = {"type": SHIFT, "amount": 1.0}
    assert config(model={"layers": [good, {"type": "Flatten"}]}).model.layers[0] == good
    for spec, message in [
        ({**good, "amount": "a"}, r'model.layers\[0\].amount: found "a", expected a number'),
        ({**good, "sides": [1]}, r"model.layers\[0\].sides: found \[1\], expected 2 integers"),
        ({"type": "no_such_package:Swirl"}, r"mine.toml: model.layers\[0\].type: found .*cannot import"),
    ]:
        with pytest.raises(ConfigError, match=message):
            config(model={"layers": [spec]})


@pytest.mark.parametrize(
    ("section", "types"), [("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("average", AVERAGES)]
)
def test_a_sections_keys_and_defaults_are_those_of_the_constructors(section, types):
    required = {"lr": 0.1} if section == "optimizer" else {}
    for name, kind in types.types().items():
        more = {"step_size": 2} if name == "step" else {}
        given = {"type": name, **required, **more}
        found = getattr(config(**{section: given}), section).model_dump()
        for key, (_, default) in types.arguments(kind).items():
            if key not in given:
                assert found[key] == default


def test_the_json_schema_has_the_ranges_of_the_constructors():
    schema = json_schema()["$defs"]
    assert schema["SGD"]["properties"]["momentum"]["exclusiveMaximum"] == 1
    assert schema["SGD"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert "SGDW" in schema["SGD"]["properties"]["decoupled"]["description"]


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Rate, [1e-9, 3, np.float32(2)], [0, -1, "1", True, float("nan"), float("inf"), None]),
        (Fraction, [0, 0.5], [1, -0.1]),
        (Share, [0, 1], [1.1]),
        (Count, [1, np.int64(3)], [0, 1.0, True]),
        (Rate | None, [None, 1], [0]),
        (tuple[Fraction, Fraction], [(0, 0.5), [0.1, 0.2]], [(0,), (0, 1), 0.5]),
        (list[Rate] | None, [None, [], [1, 2]], [[0], 3]),
        (Annotated[int, Range(ge=2, le=4), "text"], [2, 4], [1, 5]),
        (Rate, [1e300], [10**400]),  # beyond every float
    ],
)
def test_ranges_hold_for_what_they_describe(annotation, good, bad):
    for value in good:
        check("value", value, annotation)
    for value in bad:
        with pytest.raises(ConfigError, match=r"value: expected .* found"):
            check("value", value, annotation)


def test_a_checked_function_keeps_its_signature_and_names_the_argument():
    @checked
    def area(width: Rate, *, height: Rate = 1.0):
        return width * height

    assert list(inspect.signature(area).parameters) == ["width", "height"]
    assert area(2) == 2
    with pytest.raises(ConfigError, match="height: expected a finite number above 0, found -1"):
        area(2, height=-1)


def test_annotations_in_words():
    assert words(int | tuple[int, int]) == "an integer or 2 integers"
    assert words(Fraction) == "a finite number of at least 0 and below 1"
    assert words(list[Rate] | None) == "a list of numbers above 0"


def test_a_registry_finds_functions_and_leaves_out_what_is_supplied():
    shapes = Registry("shape", supplied=("x",))

    @shapes.register
    def line(x, *, slope: float, offset: float = 0.0):
        return slope * x + offset

    assert shapes.make({"type": "line", "slope": 2.0}, x=3) == 6
    assert list(shapes.arguments(line)) == ["slope", "offset"]
    with pytest.raises(ArgumentError, match='unknown argument "x"'):
        shapes.make({"type": "line", "slope": 2.0, "x": 1}, x=3)
    with pytest.raises(ConfigError, match="expected a known shape"):
        shapes.make({"type": "os:system"})


def test_a_misspelt_split_of_emnist_is_refused_before_the_data_are_read():
    assert input_shape(config(data={"dataset": "EMNIST"})) == ((1, 28, 28), 47)
    assert input_shape(config(data={"dataset": "EMNIST", "split": "letters"})) == ((1, 28, 28), 27)
    with pytest.raises(ConfigError, match='Did you mean "letters"'):
        input_shape(config(data={"dataset": "EMNIST", "split": "leters"}))


def test_the_confusion_matrix_counts_answers_by_class():
    matrix = confusion_matrix(np.array([0, 0, 2, 2, 2]), np.array([0, 1, 2, 2, 0]), 3)
    np.testing.assert_array_equal(matrix, [[1, 1, 0], [0, 0, 0], [1, 0, 2]])
