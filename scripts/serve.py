"""A trained network as a web service, with the standard library alone.

    python scripts/serve.py runs/sample --port 8000
    curl --data-binary @seven.png http://127.0.0.1:8000/        {"image": ..., "7": 0.998, ...}

Every connection has a thread of its own; any number of threads may predict with one network at once, and each
gets the bits of a lone call. `scripts/load_test.py` tries that. It listens on this machine only: before the
world can reach it, put a server in front that speaks TLS, limits rates and knows who may ask.
"""

import argparse
import json
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cnn
from cnn.errors import DataError

MOST_BYTES = 20_000_000


class Server(ThreadingHTTPServer):
    """``answer`` is a function from the path of an image file to a dict; it is called by many threads."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, answer, port):
        super().__init__(("127.0.0.1", port), Handler)
        self.answer = answer


class Handler(BaseHTTPRequestHandler):
    """POST an image file as the body, get JSON."""

    protocol_version, wbufsize, disable_nagle_algorithm, timeout = "HTTP/1.1", -1, True, 60

    def do_POST(self):
        """Answer 200 with the probabilities, 400 for what is no image, 413 for too much of it."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True  # the body stays unread
            return self.reply(413, {"error": f"expected a Content-Length of at most {MOST_BYTES}"})
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.rfile.read(int(length)))
            file.flush()
            try:
                return self.reply(200, self.server.answer(file.name))
            except DataError as error:
                return self.reply(400, {"error": str(error).replace(file.name, "the upload")})

    def reply(self, status, content):
        """Send a dict as JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing of each request."""


def answer_of(trained):
    """Return the function from an image file to {class: probability} of a run, a checkpoint or ONNX file."""
    model = cnn.load(trained)

    def answer(path):
        cnn.set_threads(1)  # of this thread's kernels: requests, not one request, share the cores
        return dict(zip(model.classes, model.predict(path).probabilities[0].tolist(), strict=True))

    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("trained", metavar="RUN_OR_CHECKPOINT")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    server = Server(answer_of(args.trained), args.port)
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
