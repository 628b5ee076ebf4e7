"""The example of a web service: right answers for many clients at once, clear ones for what is no image."""

import http.client
import json
import sys
import threading
from pathlib import Path

import pytest
import tiny

import cnn

sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))
import load_test
import serve


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(port, run folder) of a network of 8 x 8 pixels, served by threads of this process."""
    folder = tmp_path_factory.mktemp("serve")
    tiny.write_images(folder / "images", train=16, test=4)
    config = tiny.write_config(folder / "tiny.toml", folder / "images")
    options = ["--set", "train.epochs=1", "--set", "schedule.warmup_epochs=0", "--set", "train.backend=numba"]
    assert tiny.main(["train", str(config), "--run", str(folder / "run"), *options]) == 0
    server = serve.Server(serve.answer_of(folder / "run"), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, folder / "run"
    server.shutdown()
    thread.join()
    server.server_close()


def post(port, body, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/", body, dict(headers))
    reply = connection.getresponse()
    content = json.loads(reply.read())
    connection.close()
    return reply.status, content


def test_many_clients_get_the_bits_of_a_lone_call(served):
    port, run = served
    files = load_test.uploads(24)
    expected = load_test.lone_answers(serve.answer_of(run), files)
    assert len({json.dumps(answer) for answer in expected}) > 20
    seconds, wrong, _ = load_test.ask(port, files, expected, clients=8, requests=400)
    assert (len(seconds), wrong) == (400, 0)


def test_a_wrong_answer_would_be_counted(served):
    port, run = served
    files = load_test.uploads(4)
    expected = load_test.lone_answers(serve.answer_of(run), files)
    expected[1] = {**expected[1], "row": expected[1]["row"] + 1e-9}
    assert load_test.ask(port, files, expected, clients=2, requests=8)[1] == 2


def test_an_answer_has_every_class_and_is_that_of_predict(served):
    port, run = served
    status, answer = post(port, load_test.uploads(1)[0])
    assert status == 200
    assert list(answer) == list(cnn.load(run).classes)
    assert sum(answer.values()) == pytest.approx(1)


def test_what_is_no_image_is_an_answer_and_the_server_lives(served):
    port, _ = served
    for body in (b"", b"no image", load_test.uploads(1)[0][:90]):
        status, answer = post(port, body)
        assert status == 400
        assert answer["error"].startswith("the upload: expected an image")
    assert post(port, load_test.uploads(1)[0])[0] == 200


def test_a_body_that_is_too_large_is_not_read(served):
    port, _ = served
    assert post(port, b"", {"Content-Length": str(serve.MOST_BYTES + 1)}.items())[0] == 413
    assert post(port, b"", {"Content-Length": "-1"}.items())[0] == 413


def test_onnxruntime_answers_the_same(served, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    _, run = served
    file = tmp_path / "n.onnx"
    command = ["export", str(run), "--format", "onnx", "--out", str(file), "--with-preprocessing"]
    assert tiny.main(command) == 0
    files = load_test.uploads(3)
    ours = load_test.lone_answers(serve.answer_of(run), files)
    theirs = load_test.lone_answers(load_test.onnx_answer(cnn.load(run), file), files)
    for one, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(one, abs=1e-4)
