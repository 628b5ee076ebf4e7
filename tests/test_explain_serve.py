"""The server of `cnn explain --serve`: for this machine only, bounded in time and threads, silent."""

import http.client
import socket
import threading

import pytest

from cnn.explain.serve import _THREADS, make_server


@pytest.fixture
def server():
    with make_server(b"<p>page</p>", seconds=0.5) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, host=None, path="/"):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_the_page_is_served_under_the_names_of_this_machine(server):
    assert get(server) == (200, b"<p>page</p>")
    assert get(server, f"localhost:{server.server_address[1]}", "/?lang=de")[0] == 200
    assert get(server, path="/etc/passwd") == (404, b"")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1:1", ""]
)
def test_another_host_is_refused(server, host):
    assert get(server, host or "x")[0] == 403


def test_a_silent_client_is_left_after_a_while(server):
    with socket.create_connection(server.server_address, timeout=20) as client:
        assert client.recv(1) == b""


def test_silent_clients_hold_a_bounded_number_of_threads(server):
    before = threading.active_count()
    clients = [socket.create_connection(server.server_address, timeout=20) for _ in range(3 * _THREADS)]
    most = max(threading.active_count() for _ in range(50))
    for client in clients:
        client.close()
    assert most - before <= _THREADS


def test_a_client_that_leaves_prints_nothing(server, capsys):
    for _ in range(5):
        client = socket.create_connection(server.server_address)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        client.close()
    assert get(server)[0] == 200
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
