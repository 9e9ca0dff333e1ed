"""A network that goes away in the middle, and addresses that answer with something else."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import store
from helpers.data import registry
from helpers.errors import BookError, MissingData

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PAGE = b"<!DOCTYPE html><html><body>Sign in to continue</body></html>"


class Server(ThreadingHTTPServer):
    """Answers with CONTENT in the way ``mode`` says."""

    mode = "good"
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        mode = self.server.mode
        body = PAGE if mode == "html" else CONTENT
        self.send_response(503 if mode == "busy" else 200)
        self.send_header("Content-Type", "text/html" if mode == "html" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mode in ("cut", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if mode == "stall":
                threading.Event().wait(5)
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("BOOK_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(registry.pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(registry, "TIMEOUT", (2, 1))
    it = Server(("127.0.0.1", 0), Handler)
    it.handle_error = lambda *words: None
    threading.Thread(target=it.serve_forever, args=(0.02,), daemon=True).start()
    it.url = f"http://127.0.0.1:{it.server_port}/file.bin"
    yield it
    it.shutdown()
    it.server_close()


def fetch(server: Server) -> Path:
    return registry.fetch("sub/file.bin", server.url, SHA256, "none")


@pytest.mark.parametrize(
    "mode, kind, says",
    [
        ("cut", MissingData, "could not be downloaded"),
        ("stall", MissingData, "could not be downloaded"),
        ("busy", MissingData, "the server answered 503"),
        ("html", BookError, "another checksum"),
    ],
)
def test_a_download_that_fails_keeps_nothing_and_can_be_repeated(server, tmp_path, mode, kind, says):
    server.mode = mode
    with pytest.raises(kind, match=says) as caught:
        fetch(server)
    assert "\n" not in str(caught.value) and "file.bin" in str(caught.value)
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()], "no half of a file"
    server.mode = "good"
    assert fetch(server).read_bytes() == CONTENT


def test_a_server_that_is_gone(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(MissingData, match="no connection"):
        fetch(server)


def test_a_store_behind_an_address_that_answers_with_a_page(server):
    server.mode = "html"
    with pytest.raises(BookError, match="answers with a web page") as caught:
        store.Store(server.url.replace("file.bin", "mine.zarr"))
    assert "\n" not in str(caught.value)
