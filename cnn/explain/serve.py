"""Shows one page on this machine only, from memory."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["serve"]


def serve(page: bytes, ready, port: int = 0) -> None:
    """Answer every GET with ``page`` on 127.0.0.1 until interrupted; ``ready(address)`` is called once.

    ``port=0`` takes any free port.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path.split("#")[0].split("?")[0] == "/"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(page)

        def log_message(self, *args):
            """Say nothing: the terminal belongs to the address."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        ready(f"http://127.0.0.1:{server.server_address[1]}/")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
