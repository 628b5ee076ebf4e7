"""Very many image files: which ones, one table however it came about, and what is refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny
from PIL import Image

from cnn.errors import ConfigError, DataError, MissingExtra
from cnn.inference import inputs, parts, tables
from cnn.inference.inputs import image_files
from cnn.inference.stream import Prediction, Predictor
from cnn.parallel.ranks import parse_shard, shard_of_rank
from cnn.training import experiment


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a finished run and 90 images to predict."""
    folder = tmp_path_factory.mktemp("many")
    tiny.write_images(folder / "images", train=20, test=30)
    config = tiny.write_config(folder / "tiny.toml", folder / "images")
    assert tiny.main(["train", str(config), "--run", str(folder / "run"), "--set", "train.epochs=4"]) == 0
    return folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """An empty current folder, and blocks of 16 rows so that 90 images are several."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parts, "BLOCK", 16)
    monkeypatch.delenv("OMPI_COMM_WORLD_RANK", raising=False)
    return tmp_path


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(capsys, trained, *argv):
    return tiny.run(capsys, "predict", trained / "run", *argv)


# -- which files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [1, 2, 100_000])
def test_a_folder_is_walked_in_one_order_whatever_fits_into_memory(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr(inputs, "_SORTED_IN_MEMORY", in_memory)
    names = ["b.png", "a/2.PNG", "a/1.jpg", "a/z/0.bmp", "c.webp", "\udce9.png"]
    for name in [*names, ".hidden.png", ".no/x.png", "notes.txt", "a/thumbs.db"]:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = [os.path.relpath(path, tmp_path) for path in image_files([str(tmp_path)])]
    assert found == ["a/1.jpg", "a/2.PNG", "a/z/0.bmp", "b.png", "c.webp", "\udce9.png"]


def test_patterns_lists_and_files_come_in_the_order_of_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x/2.png", "x/1.png", "y/3.png", "[1].png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfy/3.png\r\n\nx/1.png\n\xe9.png")
    found = list(image_files(["**/*.png", "gone.png", "[1].png"], "list.txt"))
    assert found == [
        "[1].png", "x/1.png", "x/2.png", "y/3.png", "gone.png", "[1].png", "y/3.png", "x/1.png", "\udce9.png",
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["empty", "*.png", "empty/*"])
def test_a_folder_or_a_pattern_without_images_is_a_mistake(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found none"):
        list(image_files([what]))


# -- the table -----------------------------------------------------------------------------------


def test_the_table_has_what_the_terminal_prints(trained, here, capsys):
    folder = trained / "images/test"
    printed = json.loads(predict(capsys, trained, folder, "--json")[1])
    code, out, err = predict(capsys, trained, folder, "--out", "a.csv")
    assert (code, out, err) == (0, "a.csv: 90 images\n", "")
    found = rows("a.csv")
    expected = [str(folder / name / f"{i:02}.png") for name in ("column", "corner", "row") for i in range(30)]
    assert [row["image"] for row in found] == [entry["image"] for entry in printed] == expected
    for row, entry in zip(found, printed, strict=True):
        p = entry["probabilities"]
        assert row["class"] == max(p, key=p.get)
        assert [float(row[f"p_{name}"]) for name in p] == pytest.approx(list(p.values()), rel=1e-4)
    assert sorted(os.listdir()) == ["a.csv", "a.csv.json"]
    assert json.loads((here / "a.csv.json").read_text())["images"] == 90
    assert predict(capsys, trained, folder, "--out", "a.csv")[:2] == (
        0,
        "a.csv: finished before: 90 images\n",
    )


def test_only_the_likeliest_classes(trained, here, capsys):
    assert predict(capsys, trained, trained / "images/test", "--out", "a.csv", "--top", "2")[0] == 0
    for row in rows("a.csv"):
        assert list(row) == ["image", "class", "probability", "class_2", "probability_2", "remarks", "error"]
        assert float(row["probability"]) >= float(row["probability_2"])
        assert row["class"] != row["class_2"]


def test_files_that_cannot_be_read_are_rows_with_the_reason(trained, here, capsys):
    (here / "bad.png").write_bytes(b"no image")
    good = trained / "images/test/row/00.png"
    (here / "list").write_text(f"bad.png\n{good}\nmissing.png\n")
    code, out, _ = predict(capsys, trained, "--list", "list", "--out", "a.csv")
    assert (code, out) == (3, "a.csv: 3 images, 2 of them not readable: see the column error\n")
    bad, read, missing = rows("a.csv")
    assert (bad["class"], bad["p_row"], read["class"], read["error"]) == ("", "", "row", "")
    assert "cannot be read" in bad["error"]
    assert "no such file" in missing["error"]


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_make_the_same_file_and_the_last_one_puts_it_together(trained, here, capsys, order):
    folder = trained / "images/test"
    assert predict(capsys, trained, folder, "--out", "whole.csv")[0] == 0
    for k in order:
        assert not (here / "a.csv").exists()
        code, out, _ = predict(capsys, trained, folder, "--out", "a.csv", "--shard", f"{k}/3")
        assert code == 0
    assert out == "a.csv: 90 images\n"
    assert (here / "a.csv").read_bytes() == (here / "whole.csv").read_bytes()
    assert not (here / "a.csv.parts").exists()


def test_a_rank_of_mpiexec_is_a_shard(trained, here, capsys, monkeypatch):
    folder = trained / "images/test"
    assert predict(capsys, trained, folder, "--out", "whole.csv")[0] == 0
    for rank in ("1", "0"):
        for name, value in {"RANK": rank, "SIZE": "2", "LOCAL_SIZE": "2"}.items():
            monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
        assert predict(capsys, trained, folder, "--out", "a.csv")[0] == 0
        assert (here / "a.csv").exists() == (rank == "0")
    assert (here / "a.csv").read_bytes() == (here / "whole.csv").read_bytes()


def test_ranks_are_told_by_open_mpi_and_by_mpich():
    assert shard_of_rank({}) == (1, 1, 1)
    assert shard_of_rank({"PMI_RANK": "2", "PMI_SIZE": "4"}) == (3, 4, 4)
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
    assert shard_of_rank(dict(zip(names, ("0", "8", "2"), strict=True))) == (1, 8, 2)
    assert parse_shard("2/8") == (2, 8)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/2/3", "-1/2", ""])
def test_shards_that_are_none(text):
    with pytest.raises(ConfigError, match="expected K/P"):
        parse_shard(text)


def test_killed_at_any_block_the_same_command_ends_with_the_same_file(trained, here, capsys, monkeypatch):
    folder = trained / "images/test"
    assert predict(capsys, trained, folder, "--out", "whole.csv")[0] == 0
    write, written = parts.Parts.write, []

    class Killed(BaseException):
        pass

    def dying(self, number, predictions):
        if len(written) % 2:
            written.append(None)
            raise Killed
        write(self, number, predictions)
        written.append(number)

    monkeypatch.setattr(parts.Parts, "write", dying)
    for _ in range(5):
        with pytest.raises(Killed):
            predict(capsys, trained, folder, "--out", "a.csv")
        assert not (here / "a.csv").exists()
    assert predict(capsys, trained, folder, "--out", "a.csv")[0] == 0
    assert [n for n in written if n is not None] == [0, 1, 2, 3, 4, 5]  # none was done twice
    assert (here / "a.csv").read_bytes() == (here / "whole.csv").read_bytes()


@pytest.mark.parametrize("moment", ["the table", "the description", "half of the blocks"])
def test_killed_while_it_is_put_together(trained, here, capsys, monkeypatch, moment):
    folder = trained / "images/test"
    assert predict(capsys, trained, folder, "--out", "whole.csv")[0] == 0

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "the table":
            patch.setattr(parts, "replace_atomically", killed)
        elif moment == "the description":
            replace = parts.replace_atomically
            patch.setattr(parts, "replace_atomically", lambda *a: (replace(*a), killed()))
        else:
            patch.setattr(parts.Parts, "_remove", killed)
        assert predict(capsys, trained, folder, "--out", "a.csv")[0] == 130
    for path in [*(here / "a.csv.parts").glob("0*")][:3] if moment == "half of the blocks" else ():
        path.unlink()
    assert predict(capsys, trained, folder, "--out", "a.csv")[0] == 0
    assert (here / "a.csv").read_bytes() == (here / "whole.csv").read_bytes()


def test_sigkill_of_the_process_twice(trained, here):
    """As above, but with the system's kill, in whatever the process is doing."""
    folder, images = here / "images", 2600
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(images):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{i:05}.png", compress_level=0)
    command = [sys.executable, "-m", "cnn", "predict", str(trained / "run"), "images", "--out", "a.csv"]
    for blocks in (1, 2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while len(list(here.glob("a.csv.parts/0*"))) < blocks and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0)
    assert subprocess.run(command, check=True, capture_output=True).stdout
    assert [row["image"] for row in rows("a.csv")] == [f"images/{i:05}.png" for i in range(images)]


def test_a_signal_leaves_the_finished_blocks_and_the_command_goes_on(trained, here, capsys, monkeypatch):
    write = parts.Parts.write

    def interrupting(self, number, predictions):
        write(self, number, predictions)
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(parts.Parts, "write", interrupting)
    code, out, err = predict(capsys, trained, trained / "images/test", "--out", "a.csv")
    assert (code, out) == (143, "")
    assert err == "cnn: a.csv: interrupted; the same command goes on after the finished blocks of rows\n"
    monkeypatch.setattr(parts.Parts, "write", write)
    assert predict(capsys, trained, trained / "images/test", "--out", "a.csv")[0] == 0
    assert len(rows("a.csv")) == 90


# -- what does not belong together ---------------------------------------------------------------


def test_rows_of_different_networks_or_files_are_never_mixed(trained, here, capsys, monkeypatch):
    folder = trained / "images/test"
    assert predict(capsys, trained, folder, "--out", "a.csv", "--shard", "1/2")[0] == 0
    cases = [
        ([folder, "--invert"], "a.csv.parts: began with another invert"),
        ([folder, "--top", "1"], "a.csv.parts: began with another columns"),
    ]
    for argv, message in cases:
        code, _, err = predict(capsys, trained, *argv, "--out", "a.csv")
        assert (code, message in err) == (2, True), err
    # blocks of other files are left alone: a run that was stopped too early, of files that came and went
    assert (
        predict(capsys, trained, folder / "column", folder / "row", "--out", "a.csv", "--shard", "2/3")[0]
        == 0
    )
    assert predict(capsys, trained, folder, "--out", "a.csv")[0] == 0
    assert predict(capsys, trained, folder, "--out", "whole.csv")[0] == 0
    assert (here / "a.csv").read_bytes() == (here / "whole.csv").read_bytes()
    assert not (here / "a.csv.parts").exists()
    before = (here / "a.csv").read_bytes()
    for argv, message in [
        ([folder / "row"], "holds the predictions of other images"),
        ([folder, "--invert"], "a.csv: began with another invert"),
    ]:
        code, _, err = predict(capsys, trained, *argv, "--out", "a.csv")
        assert (code, message in err) == (2, True), err
    (here / "own.csv").write_text("mine")
    code, _, err = predict(capsys, trained, folder, "--out", "own.csv")
    assert (code, "was not made by this command" in err) == (2, True)
    assert (here / "own.csv").read_text() == "mine"
    assert (here / "a.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--out", "a.cvs"], 2, 'expected a name that ends in .csv or .parquet. Did you mean ".csv"?'),
        (["--shard", "1/2"], 2, "expected --out as well"),
        (["--out", "a.csv", "--shard", "3/2"], 2, "expected K/P"),
        (["--out", "a.csv", "--list", "gone"], 3, "gone: expected a list of paths"),
        (["--out", "no\0/a.csv"], 2, "NUL character"),
    ],
)
def test_mistakes_are_one_line(trained, here, capsys, argv, code, message):
    found, out, err = predict(capsys, trained, trained / "images/test/row/00.png", *argv)
    assert (found, out, len(err.splitlines())) == (code, "", 1)
    assert message in err


# -- Parquet -------------------------------------------------------------------------------------


def test_parquet_has_the_rows_of_csv(trained, here, capsys):
    parquet = pytest.importorskip("pyarrow.parquet")
    (here / "bad.png").write_bytes(b"")
    what = (trained / "images/test", "bad.png")
    for name in ("a.csv", "a.parquet"):
        assert predict(capsys, trained, *what, "--out", name)[0] == 3
    table = parquet.read_table("a.parquet").to_pylist()
    for row, expected in zip(table, rows("a.csv"), strict=True):
        for key, value in expected.items():
            if isinstance(row[key], float):
                assert row[key] == pytest.approx(float(value), rel=1e-5)
            else:
                assert (row[key] or "") == value
    assert parquet.ParquetFile("a.parquet").num_row_groups == 6
    assert table[-1]["probability"] is None


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r'pip install "cnn\[parquet\]"'):
        tables.Parquet(["a"])


# -- overlapping ---------------------------------------------------------------------------------


def test_the_next_batches_are_decoded_while_one_is_computed(trained, monkeypatch):
    predictor = Predictor(*experiment.load_trained(trained / "run"))
    files = list(image_files([str(trained / "images/test")]))
    read, computed_at = [], []
    monkeypatch.setattr(
        predictor, "_read", lambda paths: [read.append(p) or (p, None, (), "x") for p in paths]
    )
    batches = [files[i : i + 10] for i in range(0, 90, 10)]
    taken = []

    def asked():
        for batch in batches:
            taken.append(batch)
            yield batch

    for number, found in enumerate(predictor.stream(asked())):
        computed_at.append(len(taken))
        assert [p.image for p in found] == batches[number]
    assert computed_at == [3, 4, 5, 6, 7, 8, 9, 9, 9]  # two ahead, and never more
    assert sorted(read) == sorted(files)


def test_a_name_is_always_one_line_and_valid_utf8():
    table = tables.Csv(["a", "b"])
    block = table.block([Prediction("x\n\udce9.png", None, (), "why\nnot")])
    assert block == b"x\\n\\xe9.png,,,,,,why\\nnot\n"
