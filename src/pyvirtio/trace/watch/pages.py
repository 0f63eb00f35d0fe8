"""The page of a running device over HTTP, for browsers of this machine that know its address.

Whoever asks has to name the token, which is in the address alone and which nobody guesses, and this very host: a page
of somebody else whose name was made to point here has another one. Nothing can be changed, and a browser that is slow,
or reads nothing, holds a thread for some seconds and nobody else.
"""

from __future__ import annotations

import hmac
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING

from pyvirtio.trace.page.joining import join

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from typing import Any

PATIENCE = 5.0
"""The seconds that a browser may take to ask or to read."""

MOST_AT_ONCE = 32
"""The browsers that are answered at the same time; others are turned away, and ask again."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class PageServer(ThreadingMixIn, TCPServer):
    """Answers on ``listener``; ``values`` returns what the page shows, from any thread."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, token: str, title: str, values: Callable[[], dict[str, Any]]) -> None:
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        port = listener.getsockname()[1]
        self.hosts = (f"127.0.0.1:{port}", f"localhost:{port}")
        self.token = token
        self.values = values
        self.page = join("watch", title, {}, connect="'self'").encode()
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, or turn away."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser went away."""


class Handler(BaseHTTPRequestHandler):
    """Answers one question."""

    server: PageServer
    timeout = PATIENCE

    def do_GET(self) -> None:
        """Answer with the page, or with what it shows."""
        if not self._is_allowed():
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"The address is printed when the device is served.\n")
        elif self.path == f"/{self.server.token}/state":
            self._answer(HTTPStatus.OK, "application/json", json.dumps(self.server.values()).encode())
        elif self.path == f"/{self.server.token}/":
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"There is nothing here.\n")

    def refuse(self) -> None:
        """Answer whoever wants to change something."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if self._is_allowed() else HTTPStatus.FORBIDDEN
        self._answer(status, "text/plain", b"Nothing can be changed here.\n")

    def _is_allowed(self) -> bool:
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0] not in self.server.hosts or any(o != f"http://{hosts[0]}" for o in origins):
            return False
        token, slash, _ = self.path.removeprefix("/").partition("/")
        return bool(slash) and hmac.compare_digest(token.encode(), self.server.token.encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Return what the header Server says: not which version of what this is."""
        return "pyvirtio"

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: whoever asks must not fill the log."""


for _method in ("HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
    setattr(Handler, f"do_{_method}", Handler.refuse)
