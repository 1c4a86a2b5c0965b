"""Serves the page to draw on, with what Python has of its own: three files, and answers to posted drawings.

Nothing else can be asked for, and only under the address that was printed: another site that gives this machine a name
of its own (DNS rebinding), or posts here from its page, is refused before anything is read.
"""

import hmac
import json
import re
import secrets
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mnist_lightning.errors import UserError

HOST = "127.0.0.1"
PAGE = Path(__file__).with_name("page")
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}

SILENCE = 30  # seconds that a connection may say nothing
ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # what cannot be mistaken on a blackboard
TOKEN = 8  # of these: at a thousand guesses a second, half of them take thirteen years
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "Cache-Control": "no-store",
}

JSON = "application/json"

Answer = Callable[[bytes, dict[str, str]], dict[str, Any]]


class Server(ThreadingHTTPServer):
    """Serves the page at a port of this machine.

    Args:
        port: 0 for any that is free.
        share: Whether other machines of the local network may see it, under an address with a secret word in it.

    Raises:
        UserError: The port is taken, or is none; or there is no network to share the page on.
    """

    block_on_close = False

    def __init__(self, port: int, share: bool = False) -> None:
        host = _lan_address() if share else HOST
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"cannot listen on port {port} ({error}); give another --port, or 0 for any") from error
        names = [host] if share else [host, "localhost"]
        self.hosts = {f"{name}:{self.server_port}" for name in names} | {n for n in names if self.server_port == 80}
        self.root = "/" + (f"{''.join(secrets.choice(ALPHABET) for _ in range(TOKEN))}/" if share else "")
        self.address = f"http://{host}:{self.server_port}{self.root if share else ''}"
        self.files = {path: ((PAGE / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    def serve(self, answer: Answer, about: dict[str, Any]) -> None:
        """Serves until Ctrl-C or SIGTERM.

        Args:
            answer: Makes of a drawing (a PNG) and the address's parameters what the page shows.
            about: What it says of the model.
        """
        self.answer = answer
        self.files["about"] = json.dumps(about).encode(), JSON
        self.serve_forever()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a visitor who has left."""


class Handler(BaseHTTPRequestHandler):
    """Answers the page's requests and refuses all others."""

    server: Server
    protocol_version = "HTTP/1.1"  # one connection for all drawings
    server_version, sys_version = "mnist_lightning", ""
    timeout = SILENCE

    def do_GET(self) -> None:
        asked = self._asked()
        if asked is None or asked not in self.server.files:
            self._refuse(404)
        else:
            content, kind = self.server.files[asked]
            self._send(200, content, kind)

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self._asked() != "read" or self.headers.get("Origin") not in {f"http://{h}" for h in self.server.hosts}:
            return self._refuse(404)
        if self.headers.get("Content-Type") != "image/png" or not re.fullmatch("[0-9]{1,7}", length):
            return self._refuse(400)
        drawing = self.rfile.read(int(length))
        try:
            answer = self.server.answer(drawing, dict(parse_qsl(urlsplit(self.path).query)))
        except UserError as error:
            return self._send(400, json.dumps({"message": str(error)}).encode(), JSON)
        return self._send(200, json.dumps(answer).encode(), JSON)

    def _asked(self) -> str | None:
        """What is asked for under the address that was printed; None under any other."""
        hosts, path = self.headers.get_all("Host", []), urlsplit(self.path).path
        root = self.server.root
        inside = hmac.compare_digest(path[: len(root)].encode(), root.encode())  # takes as long for each guess
        return path[len(root) :] if len(hosts) == 1 and hosts[0] in self.server.hosts and inside else None

    def _refuse(self, status: int) -> None:
        self.close_connection = True  # with whatever else was sent
        self._send(status, b"", "text/plain")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Writes no log."""


def _lan_address() -> str:
    """This machine's address in its local network. Nothing is sent: a datagram's socket only looks for the way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address that belongs to nobody (RFC 5737)
            return str(probe.getsockname()[0])
        except OSError as error:
            raise UserError(f"expected a network to share the page on, got none ({error}); connect to one") from error
