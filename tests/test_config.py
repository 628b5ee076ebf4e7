"""Configs: every default written out, every mistake named with its place."""

import json
import tomllib
from pathlib import Path

import pytest

from cnn.config import (
    bundled_config,
    expand_blocks,
    json_schema,
    load_config,
    parse_document,
    resolve,
    to_toml,
)
from cnn.errors import ConfigError
from cnn.layers import layer_types

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
MINIMAL = """
[data]
dataset = "sample"
[model]
layers = [{ type = "Flatten" }, { type = "Linear", out_features = 10 }]
[optimizer]
type = "SGD"
lr = 0.1
"""


def resolved(*overrides, text=MINIMAL):
    return resolve(parse_document(text, "mine.toml"), "mine.toml", overrides)


def mistake(*overrides, text=MINIMAL):
    with pytest.raises(ConfigError) as caught:
        resolved(*overrides, text=text)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3
    return message


def test_defaults_are_filled_in():
    config = resolved()
    assert config.name == "mine"
    assert (config.seed, config.data.batch_size, config.data.validation) == (0, 64, 0.1)
    assert (config.schedule.type, config.train.epochs, config.train.backend) == ("constant", 10, "numba")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_configs_resolve_to_toml_that_resolves_to_the_same(path):
    config = load_config(path)
    text = to_toml(config)
    assert resolve(tomllib.loads(text), "again.toml") == config
    assert to_toml(resolve(tomllib.loads(text), "again.toml")) == text


def test_the_bundled_config_is_the_sample():
    assert load_config(bundled_config()).data.dataset == "sample"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.epochs=5", 5),
        ("optimizer.lr = 1e-3", 1e-3),
        ("optimizer.lr=1", 1.0),
        ("name=fast", "fast"),
        ('name="fast"', "fast"),
        ("train.backend=reference", "reference"),
        ("model.layers[1].bias=false", False),
        ("model.layers[-1].out_features=3", 3),
        ("schedule.type=cosine", "cosine"),
        ("loss.class_weight=[1, 2]", [1.0, 2.0]),
    ],
)
def test_set_overrides_a_key(override, value):
    node = resolved(override).plain()
    for key in override.partition("=")[0].strip().replace("[", ".").replace("]", "").split("."):
        node = node[int(key) if key.lstrip("-").isdecimal() else key]
    assert node == value
    assert type(node) is type(value)


def test_later_overrides_win():
    assert resolved("train.epochs=5", "train.epochs=6").train.epochs == 6


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.batchsize=3"], 'data.batchsize: unknown key. Did you mean "batch_size"?'),
        (["optimizer.momentun=0.9"], 'optimizer.momentun: unknown key. Did you mean "momentum"?'),
        (["optimizer.betas=[0.9, 0.99]"], "optimizer.betas: unknown key"),
        (["frobnicate=1"], "frobnicate: unknown key. There are name, seed"),
        (["seed=1.5"], "seed: found 1.5, expected an integer"),
        (["seed=true"], "seed: found true, expected an integer"),
        (["seed=-1"], "seed: found -1, expected at least 0"),
        (["train.epochs=abc"], 'train.epochs: found "abc", expected a number'),
        (["train.epochs=-1"], "train.epochs: found -1, expected at least 0"),
        (["data.batch_size=0"], "data.batch_size: found 0, expected at least 1"),
        (["data.validation=1"], "data.validation: found 1, expected a number below 1"),
        (["data=3"], "data: found 3, expected a table"),
        (["data.image_size=0"], "data.image_size: found 0, expected at least 1 or a list"),
        (["data.image_size='a'"], 'data.image_size: found "a", expected an integer or a list'),
        (["data.image_size=[8, 0]"], "data.image_size[1]: found 0, expected at least 1"),
        (["data.root=[1]"], "data.root: found [1], expected a string"),
        (["optimizer.lr=-0.1"], "optimizer.lr: found -0.1, expected a number above 0"),
        (["optimizer.lr=nan"], "optimizer.lr: found NaN, expected a finite number"),
        (["optimizer.lr=inf"], "optimizer.lr: found Infinity, expected a finite number"),
        (["optimizer.momentum=1"], "optimizer.momentum: found 1, expected a number below 1"),
        (["optimizer.nesterov=true"], "optimizer: nesterov: expected a momentum above 0 with it"),
        (
            ["optimizer={type='Muon', lr=0.1, momentum=0.0}"],
            "optimizer: nesterov: expected a momentum above 0 with it",
        ),
        (
            ["optimizer.type=sgd"],
            'optimizer.type: found "sgd", expected one of "SGD", "Muon", "Adam", "AdamW", "RMSprop"',
        ),
        (["optimizer={lr=1}"], 'optimizer.type: missing, expected one of "SGD", "Muon", "Adam"'),
        (["schedule.type=cosin"], 'Did you mean "cosine"?'),
        (["schedule={type='step'}"], "schedule: expected either milestones or step_size"),
        (
            ["schedule={type='cosine', min_lr=1}"],
            "schedule.min_lr: found 1, expected at most optimizer.lr = 0.1",
        ),
        (
            ["schedule={type='cosine', warmup_epochs=10}"],
            "schedule.warmup_epochs: found 10, expected less than",
        ),
        (["train.backend=numpy"], 'train.backend: found "numpy", expected "numba" or "reference"'),
        (["name=a/b"], 'name: found "a/b", expected letters'),
        (["model.layers=[]"], "model.layers: found [], expected at least 1"),
        (["model.layers=[1]"], "model.layers[0]: found 1, expected a table"),
        (
            ["model.layers[1].type=Liner"],
            'model.layers[1].type: found "Liner", expected a known layer. Did you mean "Linear"?',
        ),
        (
            ["model.layers[1].out_featurs=1"],
            'model.layers[1].out_featurs: unknown argument of Linear. Did you mean "out_features"?',
        ),
        (
            ["model.layers[1].out_features=ten"],
            'model.layers[1].out_features: found "ten", expected an integer',
        ),
        (
            ["model.layers[1].out_features=true"],
            "model.layers[1].out_features: found true, expected an integer",
        ),
        (["model.layers[1].out_features=0"], "model.layers[1]: Linear out_features: expected"),
        (["model.layers[1]={type='Linear'}"], "model.layers[1].out_features: missing, Linear needs it"),
        (
            ["model.layers[0]={tpye='Flatten'}"],
            'model.layers[0].type: missing, expected a name such as "Conv2d". Did you mean "type"?',
        ),
        (
            ["model.layers[0]={type='MaxPool2d', kernel_size=[1,2,3]}"],
            "kernel_size: found [1, 2, 3], expected an integer or 2 integers",
        ),
        (
            ["model.layers[0]={type='Residual', body=[{type='ReLu'}]}"],
            'model.layers[0].body[0].type: found "ReLu"',
        ),
        (
            ["model.layers[0]={type='Residual', body=3}"],
            "model.layers[0].body: found 3, expected a list of layers",
        ),
        (
            ["model.layers[0]={type='Concat', branches=[[{type='ReLu'}]]}"],
            "model.layers[0].branches[0][0].type",
        ),
        (["model.layers[0]={type='Concat', branches=[{type='ReLU'}]}"], "branches[0]: found"),
        (
            ["model.layers[0]={block='a'}"],
            "model.layers[0].block: found 'a', expected one of model.blocks: none",
        ),
        (
            ["model.layers[0]={block='a', repeats=2}", "model.blocks.a=[{type='ReLU'}]"],
            "model.layers[0].repeats: unknown key",
        ),
        (
            ["model.layers[0]={block='a', repeat=0}", "model.blocks.a=[{type='ReLU'}]"],
            "repeat: found 0, expected an integer >= 1",
        ),
        (
            ["model.layers[0]={block='a'}", "model.blocks.a=[{block='a'}]"],
            "model.blocks.a[0].block: 'a' contains itself",
        ),
        (["model.blocks.a=[{type='ReLu'}]"], 'model.blocks.a[0].type: found "ReLu"'),
        (
            ["data.augment=[{type='RandomCrop', paddin=2}]"],
            'data.augment[0].paddin: unknown argument of RandomCrop. Did you mean "padding"?',
        ),
        (
            ["data.augment=[{type='Cutout', size='a'}]"],
            'data.augment[0].size: found "a", expected an integer',
        ),
        (["data.augment=[{type='Cutout', size=0}]"], "data.augment[0]: Cutout: size: expected"),
        (
            ["data.augment=[{type='Mixup'}]"],
            'data.augment[0].type: found "Mixup", expected a known augmentation',
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(overrides, expected):
    assert expected in mistake(*overrides)


def test_an_error_names_the_file_or_the_override_it_came_from():
    assert mistake(text=MINIMAL.replace("0.1", "-1")).startswith("mine.toml: optimizer.lr: found -1")
    assert mistake("optimizer.lr=-1").startswith("--set optimizer.lr=-1: optimizer.lr")


def test_many_mistakes_take_three_lines():
    lines = mistake("a=1", "b=1", "c=1", "d=1", "e=1").splitlines()
    assert len(lines) == 3
    assert lines[2] == "and 3 more mistakes"


@pytest.mark.parametrize("override", ["train.epochs", "=3", "a..b=3", "a[x]=3", "a b=3"])
def test_an_override_without_key_and_value_is_refused(override):
    assert "expected KEY=VALUE" in mistake(override)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.layers[7].bias=false", "model.layers[7]: found index 7, expected 0 to 1"),
        ("model.layers[2]={type='ReLU'}", "model.layers[2]: found index 2, expected 0 to 1"),
        ("optimizer.lr.x=1", "optimizer.lr.x: there is no such place"),
        ("data[0]=1", "data[0]: there is no such place"),
    ],
)
def test_an_override_of_a_place_that_is_not_there_is_refused(override, expected):
    assert expected in mistake(override)


def test_blocks_are_written_out_also_inside_of_containers():
    model = {
        "blocks": {"act": [{"type": "ReLU"}], "two": [{"block": "act", "repeat": 2}]},
        "layers": [
            {"block": "two", "repeat": 2},
            {"type": "Residual", "body": [{"block": "act"}]},
            {"type": "Concat", "branches": [[{"block": "act"}], []]},
        ],
    }
    relu = {"type": "ReLU"}
    assert expand_blocks(model) == [
        relu,
        relu,
        relu,
        relu,
        {"type": "Residual", "body": [relu]},
        {"type": "Concat", "branches": [[relu], []]},
    ]


def test_toml_mistakes_name_the_line():
    with pytest.raises(ConfigError, match=r"mine.toml: not valid TOML: .*line 2"):
        parse_document("a = 1\nb = = 2", "mine.toml")


def test_the_json_schema_knows_every_section_layer_and_argument():
    schema = json_schema()
    json.dumps(schema)
    layers = {table["title"]: table for table in schema["$defs"]["AnyLayer"]["anyOf"] if "title" in table}
    assert layers.keys() == layer_types().keys()
    assert layers["Conv2d"]["required"] == ["type", "out_channels", "kernel_size"]
    assert layers["Concat"]["properties"]["branches"]["items"]["type"] == "array"
    assert set(schema["properties"]) == {
        "name",
        "seed",
        "data",
        "model",
        "loss",
        "optimizer",
        "schedule",
        "average",
        "train",
        "start",
        "tta",
        "sweep",
    }
    assert schema["additionalProperties"] is False
