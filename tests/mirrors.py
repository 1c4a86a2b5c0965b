"""Mirrors on this machine: honest, broken or malicious, as a test says."""

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from mnist_lightning import mirror

DEAD = "http://127.0.0.1:9/"  # nothing listens there
PATIENCE = 4  # seconds until a mirror that stalls gives the right bytes, for a client that does not give it up


class Mirrors(ThreadingHTTPServer):
    """Any number of mirrors of ``files``, each below a folder of its own, and each as honest as ``answers`` says."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}  # name -> the right bytes
        self.answers = {}  # a path, or the name of a mirror -> what it does instead of sending the right bytes
        self.requests = []  # the paths, in order
        self.sent = 0  # bytes of the answers without an end, until their clients hung up
        self.second_request = threading.Event()
        self.halfway = threading.Event()
        self.closing = threading.Event()

    def __getitem__(self, mirror):
        return f"http://127.0.0.1:{self.server_port}/{mirror}/"

    def handle_error(self, request, client_address):
        pass  # a client that has gone


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        if len(self.server.requests) > 1:
            self.server.second_request.set()
        _, mirror, name = self.path.split("/")
        answers = self.server.answers
        answer = answers.get(self.path) or answers.get(mirror, right_bytes)
        answer(self, self.server.files[name])

    def send(self, body, status=200, size=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_endless(self, piece, status=200, **headers):
        """Without an end, but for a client that never hangs up."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        for _ in range(4 * mirror.MAX_SIZE // len(piece)):
            self.wfile.write(piece)
            self.server.sent += len(piece)

    def log_message(self, *args):
        pass


def right_bytes(handler, body):
    handler.send(body)


def not_found(handler, body):
    handler.send(b"Not Found", 404)


def unavailable(handler, body):
    handler.send(b"Service Unavailable", 503)


def html(handler, body):
    handler.send(b"<!DOCTYPE html><title>We have moved</title>", **{"Content-Type": "text/html"})


def truncated(handler, body):
    handler.send(body[: len(body) // 2], size=len(body))


def nothing_of_it(handler, body):
    handler.send(b"", size=len(body))


def wrong_bytes(handler, body):
    handler.send(body[::-1])


def redirects(handler, body):
    handler.send(b"", 302, Location=handler.path)


def hangs_up(handler, body):
    pass


def says_nothing(handler, body):
    handler.server.closing.wait(PATIENCE)
    handler.send(body)


def stalls(handler, body):
    handler.send(b"", size=len(body))
    handler.server.closing.wait(PATIENCE)
    handler.wfile.write(body)


def stalls_halfway(handler, body):
    half = len(body) // 2
    handler.send(body[:half], size=len(body))
    handler.server.closing.wait(PATIENCE)
    handler.wfile.write(body[half:])


def stalls_halfway_for_good(handler, body):
    handler.send(body[: len(body) // 2], size=len(body))
    handler.server.halfway.set()
    handler.server.closing.wait()


def drips(handler, body):
    """A byte now and then, always before the client loses its patience with the silence."""
    handler.send(body[:1], size=len(body))
    for at in range(1, len(body)):
        if handler.server.closing.wait(0.05):
            return
        handler.wfile.write(body[at : at + 1])


def endless(handler, body):
    handler.send_endless(bytes(1 << 20))


def endless_chunks(handler, body):
    handler.send_endless(b"100000\r\n" + bytes(1 << 20) + b"\r\n", **{"Transfer-Encoding": "chunked"})


def promises_a_terabyte(handler, body):
    handler.send_endless(bytes(1 << 20), **{"Content-Length": str(1 << 40)})


def more_than_the_file(handler, body):
    handler.send(body + bytes(mirror.MAX_SIZE))


def gzip_bomb(handler, body):
    """200 MiB for a client that unpacks it; 0.2 MB for one that does not."""
    handler.send(gzip.compress(bytes(1 << 20)) * 200, **{"Content-Encoding": "gzip"})


def endless_redirect(handler, body):
    handler.send_endless(bytes(1 << 20), 302, Location=handler.path.replace("/bad/", "/good/"))


def says_what_a_gz_is(handler, body):
    """As Apache does where it is told that .gz is an encoding: the file's own gzip in place of one for the way."""
    handler.send(body, **{"Content-Encoding": "gzip", "Content-Type": "application/octet-stream"})


def packs_what_may_be_packed(handler, body):
    packs = "gzip" in handler.headers.get("Accept-Encoding", "gzip")
    handler.send(gzip.compress(body), **{"Content-Encoding": "gzip"}) if packs else handler.send(body)


def small_chunks(handler, body):
    pieces = [body[i : i + 10] for i in range(0, len(body), 10)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(chunks)


def right_bytes_late(handler, body):
    """Gives another process the time to ask as well; where it does not, the first request takes 0.3 s."""
    handler.server.second_request.wait(0.3)
    handler.send(body)


@contextmanager
def serving(files):
    """A server with as many mirrors of some files, {name: bytes}, as are asked for: ``mirrors[name]``."""
    with Mirrors() as server:
        server.files = files
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()
