"""The commands speak English or Chinese, from one catalogue, with every number in its place."""

import argparse
import importlib
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import cnn.doctor
from cnn import cli, language, layers
from cnn.commands import COMMANDS
from cnn.commands.common import add_common_arguments
from cnn.commands.evaluate import class_table
from cnn.doctor import FAIL, Finding, Report
from cnn.helptext import wrapped
from cnn.language import choose, fill, pad, phrase, speaking, translate, width
from cnn.training.progress import epoch_line

TABLES = tomllib.loads((Path(language.__file__).parent / "i18n" / "zh.toml").read_text(encoding="utf-8"))
CHINESE = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize(
    ("environ", "chosen"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "C", "LC_ALL": "zh_TW"}, "zh"),
        ({"LANG": "zh_CN", "LC_ALL": ""}, "zh"),
    ],
)
def test_the_language_is_that_of_the_locale(environ, chosen):
    assert choose(environ) == chosen


def test_every_translation_has_the_places_of_its_original():
    for english, chinese in (pair for table in TABLES.values() for pair in table.items()):
        asked, given = (re.findall(r"\{\w+\}", text) for text in (chinese, english))
        assert len(set(given)) == len(given)
        assert set(asked) <= set(given), english


def test_a_finished_message_is_translated_with_its_numbers():
    with speaking("zh"):
        assert translate("first in the output of layer 3 (Linear)") == "最先出现在第 3 层（Linear）的输出"
        assert fill("in {t} s", t="1.5") == "用时 1.5 秒"
        assert translate("overfits 32 images") == "记住 32 张图像"


def test_what_the_catalogue_lacks_and_english_stay_as_they_are():
    with speaking("zh"):
        assert translate("some message of tomorrow: 3") == "some message of tomorrow: 3"
    assert translate("no ReLU") == "no ReLU"
    assert fill("in {t} s", t=2) == "in 2 s"


def test_the_language_ends_with_its_block():
    with pytest.raises(RuntimeError), speaking("zh"):
        raise RuntimeError
    assert language.current() == "en"


def test_chinese_characters_take_two_columns():
    assert width("梯度 a") == 6
    assert pad("梯度", 6) == "梯度  "


def test_every_check_of_the_doctor_has_a_chinese_name():
    names = set()
    for path in Path(cnn.doctor.__file__).parent.glob("*.py"):
        names |= set(re.findall(r'finding\(\s*f?"([^"]+)"', path.read_text(encoding="utf-8")))
    assert len(names) > 15
    with speaking("zh"):
        for name in names - {"logits"}:
            shown = re.sub(r"\{.*?\}", "9", name).replace("9 leak", "test leak")
            assert CHINESE.search(translate(shown)), name


def test_the_doctor_reports_in_chinese():
    finding = Finding(
        "learning rate", FAIL, "loss 2 to nan in 8 steps at lr 50", "a loss that falls", "lower optimizer.lr"
    )
    with speaking("zh"):
        text = str(Report([finding]))
    assert text.splitlines()[0] == "FAIL  学习率  以学习率 50 训练 8 步，损失从 2 变为 nan  应为 损失下降"
    assert "请减小 optimizer.lr" in text
    assert "expected a loss that falls" in str(Report([finding]))


@pytest.mark.parametrize("arguments", [["--language", "zh"], ["--language=zh"]])
def test_errors_are_told_in_the_language_that_was_asked_for(arguments, capsys):
    assert cli.main(["doctor", "--hlep", *arguments]) == 2
    assert "没有参数“--hlep”" in capsys.readouterr().err


def test_an_unknown_language_is_a_usage_error(capsys):
    assert cli.main(["doctor", "--language", "fr"]) == 2
    assert "'fr'" in capsys.readouterr().err


def test_a_locale_changes_the_messages(monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert cli.main(["nonsense"]) == 2
    assert "没有命令“nonsense”" in capsys.readouterr().err


@pytest.mark.parametrize(("smoothed", "name"), [(False, "  损失 0.3000"), (True, "平滑标签的损失 0.3000")])
def test_a_line_of_training_is_chinese_and_says_whether_its_labels_are_smoothed(smoothed, name):
    numbers = {"train_loss": 0.3, "train_accuracy": 0.9, "val_loss": 0.2, "val_accuracy": 0.95}
    row = {"epoch": 1, "lr": 0.1, "images_per_second": 1000.0, "seconds": 2.0, **numbers}
    line = epoch_line(row, 9, smoothed)
    assert ("smoothed loss 0.3000" in line) == smoothed
    with speaking("zh"):
        assert name in translate(line)
        assert "验证损失 0.2000" in translate(line)


#: The commands of which learners must understand every word.
LEARNERS = ("train", "evaluate", "predict", "explain", "summary", "doctor", "gradcheck", "exercise", "break")


def texts_of_help(commands=LEARNERS):
    """Return every text that --help shows, white space as single spaces."""
    found = {COMMANDS[name] for name in commands}
    for name in commands:
        module = importlib.import_module(f"cnn.commands.{name}")
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        add_common_arguments(parser)
        found |= {module.__doc__, *(action.help for action in parser._actions if action.help)}
        found |= {group.title for group in parser._action_groups}
    return {" ".join(text.split()) for text in found}


def test_every_text_of_help_is_chinese_as_well():
    with speaking("zh"):
        for text in texts_of_help():
            assert CHINESE.search(phrase(text)), text


def test_help_in_chinese_stays_within_the_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in LEARNERS:
        assert cli.main([name, "--help", "--language", "zh"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("用法：")
        assert max(map(width, lines)) <= 80
        assert not [line for line in lines if line.lstrip()[:1] in "，。；：" and line.strip()]
        assert any("选项" in line for line in lines)


def test_the_overview_is_chinese(capsys):
    assert cli.main(["--help", "--language", "zh"]) == 0
    printed = capsys.readouterr().out
    assert "按配置训练一个网络" in printed


def test_a_line_is_broken_beside_chinese_characters_and_at_spaces():
    assert wrapped("梯度，损失 loss 下降", 6) == ["梯度，", "损失", "loss", "下降"]
    assert wrapped("", 6) == []


def test_tables_have_chinese_heads_above_their_columns():
    network = cnn.Network([layers.Conv2d(2, 3), layers.Flatten(), layers.Linear(3)])
    network.build((1, 6, 6))
    probabilities = np.eye(3)[[0, 1, 1, 2]]
    with speaking("zh"):
        table = str(network.summary(batch_size=4)).splitlines()
        classes = class_table(["猫", "dog", "elk"], np.array([0, 1, 2, 2]), probabilities).splitlines()
    assert table[0] == "输入 1 x 6 x 6，批次大小 4"
    assert table[1].split() == ["层", "类型", "输出", "参数量", "乘加次数", "激活值"]
    assert "训练大约需要" in table[-1]
    assert (
        len({width(line) for line in table[1:2] + table[3:6]}) == 1
    )  # the last column ends where its head ends
    assert classes[0].split() == ["类别", "图像数", "答对", "召回率", "精确率", "F1", "最常误判为"]
    ends = [width(line[: line.index("%")]) for line in classes[1:]]
    assert len(set(ends)) == 1
