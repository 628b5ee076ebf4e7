"""Text that goes out: harmless to the terminal, spelled in its encoding, never the end of a training."""

import io
import os
import subprocess
import sys

import pytest
from PIL import Image

from cnn import terminal
from cnn.terminal import ReaderLeft, printable, printable_name, say


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x07\r", r"\x1b[31mred\x07\r"),
        ("\x9b31m", r"\x9b31m"),
        ("exe.\u202egpj", r"exe.\u202egpj"),
        ("\u2066a\u2069\u200f", r"\u2066a\u2069\u200f"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("猫 é ± – 👩‍🚀", "猫 é ± – 👩‍🚀"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text, expected):
    assert printable(text) == expected
    assert printable(expected) == expected


def test_a_name_takes_one_line():
    assert printable_name("a\nb\tc") == r"a\nb\tc"


@pytest.mark.parametrize(
    ("encoding", "expected"), [("latin-1", b"\\u732b \xb1\n"), ("ascii", b"\\u732b \\xb1\n")]
)
def test_what_the_encoding_lacks_is_escaped(monkeypatch, encoding, expected):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    say("猫 ±")
    assert stream.buffer.getvalue() == expected


@pytest.mark.parametrize("closed", [False, True])
def test_a_closed_stream_takes_nothing(monkeypatch, closed):
    for name in ("stdout", "stderr"):
        stream = io.StringIO()
        stream.close()
        monkeypatch.setattr(sys, name, stream if closed else None)
    say("lost")
    say("lost", error=True)


def test_streams_that_are_closed_at_the_start_lead_nowhere(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with terminal.prepared():
        assert sys.stdin.read() == ""
        print("lost", file=sys.stderr)
        print("lost")
        terminal.finish()
        for name in ("stdin", "stdout", "stderr"):
            getattr(sys, name).close()


def test_a_reader_that_left_is_told_once(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(ReaderLeft) as error:
            say("nobody hears this")
        assert error.value.exit_code == 141
        say("nor this")
        terminal.finish()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_on_a_full_disk_is_given_up(monkeypatch, name):
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, name, stream)
        say("no room", error=name == "stderr")
        say("no room", error=name == "stderr")
        terminal.finish()


def test_a_bar_that_cannot_be_drawn_ends_no_training(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with terminal.bar(show=True, total=3) as shown:
            for _ in range(3):
                shown.update()


def test_names_on_the_disk_are_utf_8_in_a_locale_that_knows_ascii_only(tmp_path):
    for name in ("猫", "rén", "r"):
        (tmp_path / name).mkdir()
    os.mkdir(os.fsencode(tmp_path) + b"/r\xe9n")
    for folder in list(os.scandir(os.fsencode(tmp_path))):
        Image.new("L", (2, 2)).save(os.path.join(os.fsdecode(folder.path), "a.png"))
    code = (
        "import sys; from pathlib import Path; from cnn.data.listing import class_folders;"
        "print(ascii(class_folders(Path(sys.argv[1])).classes))"
    )
    said = set()
    for locale in ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | locale
        command = [sys.executable, "-c", code, str(tmp_path)]
        said.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert said == {ascii(["r", "rén", r"r\xe9n", "猫"]) + "\n"}
