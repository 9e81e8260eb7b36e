"""A proxy before a real S3 server, which loses or invents answers to the creation of records."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# What becomes of the first creation of each record: whether it reaches the server, and the status that is answered in
# place of the server's; 0 closes the connection.
FLAWS: dict[str, tuple[bool, int]] = {
    "written, then 503: the retry meets its own write as 412": (True, 503),
    "written, and the connection drops": (True, 0),
    "not written, and the connection drops": (False, 0),
    "not written, and 409": (False, 409),
    "not written, and 503": (False, 503),
    "written, and 409": (True, 409),
}


@contextmanager
def proxy(endpoint: str, flaw: str, always: bool = False) -> Iterator[str]:
    """The address of a proxy with that flaw; with `always` not only the first creation of each record has it."""
    reaches, status = FLAWS[flaw]
    target, spoiled, lock = urlsplit(endpoint), set[str](), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            creates = (
                self.headers.get("If-None-Match") == "*" and "/models/" in self.path and "/probe/" not in self.path
            )
            with lock:
                spoils = creates and (always or self.path not in spoiled)
                spoiled.add(self.path) if creates else None
            if spoils and not reaches:
                self._say(status, b"")
                return
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            content = response.read()
            if spoils:
                self._say(status, b"")
            else:
                self._say(response.status, content, response.getheaders())
            connection.close()

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _say(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
            if status == 0:
                self.close_connection = True
                return
            self.send_response_only(status)
            for name, value in headers or []:
                if name.lower() not in {"content-length", "transfer-encoding", "connection"} or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
