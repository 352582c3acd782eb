"""A TLS web server that answers, redirects, breaks off and lies as a test tells it."""

import hashlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Site:
    """What a path of the web server answers with, and how it goes wrong."""

    body: bytes = b""
    etag: str | None = '"one"'
    status: int = 200
    location: str | None = None
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Bytes of a body after which the connection breaks, once for each time in `drops`."""
    drops: int = 0
    reset: bool = False
    """It breaks by a reset, not by an end."""
    length: int | None = None
    """A Content-Length that is a lie."""
    needs: tuple[str, str] | None = None
    """A header that a request must have."""
    pause: float = 0.0
    deaf: bool = False
    """It does not know If-Match."""
    bye: bool = False
    """It ends TLS, as the protocol has it, after each answer, and says nothing of that in the answer."""


class Web:
    """A TLS web server."""

    def __init__(self, authority: Path) -> None:
        self.sites: dict[str, Site] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.sent = 0
        self.on_request: Callable[[str], None] = lambda _path: None
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, client_address) -> None:
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.with_name("server.pem"), authority.with_name("server.key"))
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.port = self.server.server_address[1]
        self.url = f"https://localhost:{self.port}"
        self.other = f"https://127.0.0.1:{self.port}"
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.seen.append((handler.path, dict(handler.headers)))
        self.on_request(handler.path)
        site = self.sites.get(handler.path, Site(status=404))
        if site.needs and handler.headers.get(site.needs[0]) != site.needs[1]:
            site = Site(status=401)
        if handler.headers.get("If-Match") not in {None, site.etag} and site.status == 200 and not site.deaf:
            site = Site(status=412)
        unmodified = handler.headers.get("If-Unmodified-Since")
        if unmodified not in {None, site.headers.get("Last-Modified")} and not site.deaf:
            site = Site(status=412)
        start, stop, status = 0, len(site.body), site.status
        wanted = handler.headers.get("Range")
        if wanted and site.ranges and status == 200:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(int(last) + 1, len(site.body)), 206
            if start >= len(site.body):
                start, stop, status = 0, 0, 416
        handler.send_response_only(status)
        if "Date" not in site.headers:
            handler.send_header("Date", handler.date_time_string())
        if status == 206 and "Content-Range" not in site.headers:
            handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(site.body)}")
        if status == 416:
            handler.send_header("Content-Range", f"bytes */{len(site.body)}")
        for name, value in {"ETag": site.etag, "Location": site.location, **site.headers}.items():
            if value is not None:
                handler.send_header(name, value)
        if site.length != -1:
            handler.send_header("Content-Length", str(stop - start if site.length is None else site.length))
        handler.end_headers()
        time.sleep(site.pause)
        broken = site.drops > 0 and site.drop_after is not None and stop - start > site.drop_after
        if broken:
            site.drops -= 1
            stop = start + (site.drop_after or 0)
            handler.close_connection = True
        if site.length is not None:
            handler.close_connection = True
        handler.wfile.write(site.body[start:stop])
        self.sent += stop - start
        if broken and site.reset:
            time.sleep(0.2)  # a reset overtakes what nobody has read yet
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for end in (handler.rfile, handler.wfile, handler.connection):
                end.close()
        if site.bye:
            handler.close_connection = True
            with suppress(OSError):
                handler.connection.unwrap()

    def requests(self, path: str) -> list[dict[str, str]]:
        return [headers for seen, headers in self.seen if seen == path]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
