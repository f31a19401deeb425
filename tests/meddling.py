"""A loopback proxy that stands before an S3 server and meddles: drops headers, refuses, loses answers."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Request:
    """What a client asked; `headers` may be changed before it is passed on."""

    method: str
    path: str
    headers: dict[str, str]

    def without(self, name: str) -> Request:
        """The same less a header."""
        self.headers = {key: value for key, value in self.headers.items() if key.lower() != name.lower()}
        return self


@dataclass(frozen=True)
class Refusal:
    """An error as S3 tells it, given instead of passing the request on."""

    status: int
    code: str

    def body(self) -> bytes:
        """The XML of it."""
        return f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()


class LostAnswer:
    """The request is passed on, and the connection ends before its answer arrives."""


class CutAnswer:
    """The request is passed on, and half of the body of its answer arrives."""


Meddle = Callable[[Request], Refusal | LostAnswer | CutAnswer | None]


@dataclass
class Proxy:
    """Where the proxy listens, and every request that it saw ("PUT /bucket/key")."""

    endpoint: str
    seen: list[str] = field(default_factory=list)


@contextmanager
def meddling(upstream: str, meddle: Meddle) -> Iterator[Proxy]:
    """A proxy before `upstream`, on a free port; it ends with the block. `meddle` is called by several threads."""
    target = urlsplit(upstream).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # In one piece: the second half of an answer would otherwise wait for the first to be acknowledged.
        wbufsize = -1
        disable_nagle_algorithm = True

        def _any(self) -> None:
            request = Request(self.command, self.path, dict(self.headers.items()))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.seen.append(f"{request.method} {request.path}")
            verdict = meddle(request)
            if isinstance(verdict, Refusal):
                self._answer(verdict.status, [("Content-Type", "application/xml")], verdict.body())
                return
            connection = http.client.HTTPConnection(target, timeout=60)
            try:
                connection.request(request.method, request.path, body, request.headers)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if isinstance(verdict, LostAnswer):
                self.close_connection = True
                return
            self._answer(answer.status, answer.getheaders(), data, isinstance(verdict, CutAnswer))

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, value)
            length = next((value for name, value in headers if name.lower() == "content-length"), None)
            bare = self.command == "HEAD"
            self.send_header("Content-Length", length if bare and length else str(len(data)))
            self.end_headers()
            if not bare:
                self.wfile.write(data[: len(data) // 2] if cut else data)
            self.close_connection = self.close_connection or cut

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any

        def log_message(self, *_: Any) -> None:
            """A line a request would bury what a failing test says."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
