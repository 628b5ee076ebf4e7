"""Many clients ask `scripts/serve.py` at once: every answer has the bits of a lone call; how long it takes.

    python scripts/load_test.py runs/sample --clients 20 --requests 10000 [--onnxruntime]

The images are the bundled test digits as PNG files. With --onnxruntime the same server then answers from the
exported network with onnxruntime (the same decoding, one thread a request), for comparison.
"""

import argparse
import http.client
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import serve
from PIL import Image

import cnn
from cnn.data import load_dataset
from cnn.data.picture import read_picture
from cnn.terminal import say

IMAGES = 200


def uploads(count=IMAGES):
    """Return the bundled test digits as the bytes of PNG files."""
    files = []
    for pixels in load_dataset("sample").test.images[:count]:
        file = io.BytesIO()
        Image.fromarray(pixels[0]).save(file, "PNG")
        files.append(file.getvalue())
    return files


def lone_answers(answer, files):
    """Return what ``answer`` says of each file, asked one after the other."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.png"
        for content in files:
            path.write_bytes(content)
            found.append(answer(str(path)))
    return found


def onnx_answer(model, file):
    """Return the function from an image file to {class: probability} that asks onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def answer(path):
        data = model.config.data
        pixels = read_picture(path, model.image_shape, model.mean, fit=data.fit, decode=data.decode)[0]
        probabilities = session.run(None, {"images": pixels[None]})[0][0]
        return dict(zip(model.classes, probabilities.tolist(), strict=True))

    return answer


def ask(port, files, expected, clients, requests):
    """Return (seconds of each request, how many answers were wrong, seconds of the whole)."""
    numbers, lock, seconds, wrong = iter(range(requests)), threading.Lock(), [], []

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            k = number % len(files)
            begin = time.perf_counter()
            connection.request("POST", "/", files[k])
            reply = connection.getresponse()
            content = reply.read()
            seconds.append(time.perf_counter() - begin)
            if reply.status != 200 or json.loads(content) != expected[k]:
                wrong.append(number)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) < requests:
        wrong += range(requests - len(seconds))  # a client that failed
    return seconds, len(wrong), time.perf_counter() - begin


def measure(name, command, expected, files, args):
    """Start a server, ask it, print a line; return how many answers were wrong."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline().rsplit(":", 1)[1].strip("/\n"))
        ask(port, files, expected, args.clients, 5 * args.clients)  # threads and kernels get ready
        seconds, wrong, whole = ask(port, files, expected, args.clients, args.requests)
        p50, p99 = 1000 * np.percentile(seconds, [50, 99])
        say(
            f"{name}: {args.requests:,} requests of {args.clients} clients, {wrong} wrong, "
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {args.requests / whole:,.0f} requests/s"
        )
    finally:
        process.kill()
        process.wait()
    return wrong


def main():
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trained", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--onnxruntime", action="store_true")
    parser.add_argument("--serve-onnx", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve_onnx:
        server = serve.Server(onnx_answer(cnn.load(args.trained), args.serve_onnx), 0)
        print(f"http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
    files, here = uploads(), Path(__file__)
    answer = serve.answer_of(args.trained)
    command = [str(here.with_name("serve.py")), args.trained, "--port", "0"]
    wrong = measure("cnn", command, lone_answers(answer, files), files, args)
    if args.onnxruntime:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "network.onnx"
            export = ["cnn", "export", args.trained, "--format", "onnx", "--out", str(file)]
            command = [sys.executable, "-m", *export, "--with-preprocessing"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            alone = lone_answers(onnx_answer(cnn.load(args.trained), file), files)
            command = [str(here), args.trained, "--serve-onnx", str(file)]
            wrong += measure("onnxruntime", command, alone, files, args)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
