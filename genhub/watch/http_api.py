"""Serve the page and what it asks for, to this machine alone and to whoever has the key in its address."""

from __future__ import annotations

import hmac
import json
import math
import os
import secrets
import sys
from collections.abc import Callable
from hashlib import blake2b
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from genhub.errors import CheckpointError, GenhubError, InputError
from genhub.watch.watching import Watch

HERE = "127.0.0.1"
NAMES = (HERE, "localhost")
"""Names by which a browser may call this machine. By another name, another site would be reading."""
PAGE = Path(__file__).with_name("page")
FILES = {"/": ("index.html", "text/html"), "/style.css": ("style.css", "text/css"),
         "/page.js": ("page.js", "text/javascript"), "/charts.js": ("charts.js", "text/javascript")}  # fmt: skip
"""The page's files, by their addresses."""
MOST_LINES = 5000
"""Most log lines of an answer."""
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Server of the page of some runs."""

    daemon_threads = True
    allow_reuse_address = os.name != "nt"  # there, two would listen on one port

    def __init__(self, watch: Watch, port: int) -> None:
        """
        Raises:
            InputError: the port is taken, or not for everybody.
        """
        self.watch, self.key = watch, secrets.token_urlsafe(12)
        try:
            super().__init__((HERE, port), Handler)
        except OSError as error:
            raise InputError(f"--port {port}: {error.strerror}; choose another, or --port 0 for a free one") from error

    @property
    def address(self) -> str:
        """The page's address. What is behind the # a browser sends to nobody: the page's script reads it."""
        return f"http://{HERE}:{self.server_port}/#{self.key}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):  # a browser that has gone
            super().handle_error(request, client_address)


class Refused(Exception):
    """An answer that is none: its status, and a line that says why."""

    def __init__(self, status: HTTPStatus, said: str) -> None:
        super().__init__(said)
        self.status, self.said = status, said


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        self._answer({"/api/runs": self._runs, "/api/log": self._log, "/api/picture": self._picture})

    def do_POST(self) -> None:
        self._answer({"/api/stop": self._stop})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""

    def _answer(self, calls: dict[str, Callable[[dict[str, str]], tuple[bytes, str]]]) -> None:
        asked = urlsplit(self.path)
        try:
            self._check_host()
            if self.command == "GET" and asked.path in FILES:
                name, kind = FILES[asked.path]
                self._send((PAGE / name).read_bytes(), f"{kind}; charset=utf-8")
                return
            values = {name: found[-1] for name, found in parse_qs(asked.query).items()}
            if not hmac.compare_digest(values.get("key", "").encode(), self.server.key.encode()):
                raise Refused(HTTPStatus.FORBIDDEN, "open the address that genhub watch has printed: it has a key")
            if asked.path not in calls:
                raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
            self._send(*calls[asked.path](values))
        except Refused as refused:
            self._send(*_json({"said": refused.said}), refused.status)
        except (GenhubError, OSError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._send(*_json({"said": str(error)}), _status(error))

    def _check_host(self) -> None:
        host = self.headers.get("Host", "")
        origin = self.headers.get("Origin")
        if host.partition(":")[0] not in NAMES or origin not in (None, f"http://{host}"):
            raise Refused(HTTPStatus.FORBIDDEN, "another site's page may not ask")

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        tag = f'"{blake2b(body, digest_size=12).hexdigest()}"'
        if status == HTTPStatus.OK and self.headers.get("If-None-Match") == tag:
            status, body = HTTPStatus.NOT_MODIFIED, b""
        if status >= HTTPStatus.BAD_REQUEST:  # what the request still has is not read
            self.close_connection = True
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "ETag": tag}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # Answers

    def _runs(self, values: dict[str, str]) -> tuple[bytes, str]:
        return _json(self.server.watch.look())

    def _log(self, values: dict[str, str]) -> tuple[bytes, str]:
        """Return the lines of a run's log from one on: all that the page does not have yet, or a part of it."""
        with self.server.watch.run(values.get("run", "")) as run:
            generation = run.log.generation
            since = _number(values, "since") if _number(values, "generation") == generation else 0
            part = run.log.lines[since : since + MOST_LINES]
        return _json({"generation": generation, "since": since, "lines": list(map(_finite, part))})

    def _picture(self, values: dict[str, str]) -> tuple[bytes, str]:
        with self.server.watch.run(values.get("run", "")) as run:
            content = run.picture(_number(values, "step"))
        if content is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such picture")
        return content, "image/png"

    def _stop(self, values: dict[str, str]) -> tuple[bytes, str]:
        if self.headers.get("Content-Length", "0") != "0":
            raise Refused(HTTPStatus.BAD_REQUEST, "nothing more is needed")
        with self.server.watch.run(values.get("run", "")) as run:
            return _json({"said": run.stop()})


def _status(error: Exception) -> HTTPStatus:
    if isinstance(error, CheckpointError):
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.CONFLICT if isinstance(error, InputError) else HTTPStatus.INTERNAL_SERVER_ERROR


def _json(content: Any) -> tuple[bytes, str]:
    return json.dumps(content, allow_nan=False).encode(), "application/json"


def _finite(line: dict[str, float]) -> dict[str, float | None]:
    """Return a log line as JSON can have it: null for what is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def _number(values: dict[str, str], name: str) -> int:
    text = values.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name}: must be a whole number")
    return int(text)
