"""Shows one page on this machine only, from memory."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["serve"]

_SECONDS = 10  # that a client may be silent
_THREADS = 32  # clients at a time


def serve(page: bytes, ready, port: int = 0) -> None:
    """Answer every GET with ``page`` on 127.0.0.1 until interrupted; ``ready(address)`` is called once.

    ``port=0`` takes any free port. Only requests that name this machine as their host are answered: a web
    page elsewhere whose name leads to 127.0.0.1 (DNS rebinding) gets 403. A client that is silent for 10
    seconds is left, one above 32 at a time is turned away.
    """
    with make_server(page, port) as server:
        ready(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def make_server(page: bytes, port: int = 0, seconds: float = _SECONDS) -> ThreadingHTTPServer:
    """Return the server of ``serve``, listening; ``seconds`` is how long a client may be silent."""

    class Handler(BaseHTTPRequestHandler):
        timeout = seconds

        def do_GET(self):
            number = self.server.server_address[1]
            found = self.path.split("#")[0].split("?")[0] == "/"
            hosts = {f"{name}:{number}" for name in ("127.0.0.1", "localhost")}
            code = 403 if self.headers.get("Host", "").lower() not in hosts else 200 if found else 404
            self.send_response(code)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page) if code == 200 else 0))
            self.end_headers()
            if code == 200:
                self.wfile.write(page)

        def log_message(self, *args):
            """Say nothing: the terminal belongs to the address."""

    return _Server(("127.0.0.1", port), Handler)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address, handler):
        self._free = threading.BoundedSemaphore(_THREADS)
        super().__init__(address, handler)

    def process_request(self, request, client_address):
        """Start a thread for a client while one is free; else close the connection."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        """Say nothing of a client that left or sent no HTTP."""
