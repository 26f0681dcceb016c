"""A server on this machine that speaks what huggingface_hub asks of the Hub."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """What the server serves, and what was asked of it.

    Attributes:
        files: "owner/name/file" → bytes.
        asked: "METHOD owner/name/file" of each request.
        cut: a body is cut off after this many bytes, once.
        status: answered to everything, if not 0.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.asked: list[str] = []
        self.cut: int | None = None
        self.status = 0
        self.address = ""


class Answers(BaseHTTPRequestHandler):
    """One request. `hub` is given by a subclass."""

    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_args: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        repo, _, rest = self.path.strip("/").partition("/resolve/")
        name = f"{repo}/{rest.partition('/')[2]}"
        self.hub.asked.append(f"{self.command} {name}")
        data = self.hub.files.get(name)
        if self.hub.status:
            self._send(self.hub.status, {"Content-Length": "0"})
        elif data is None:
            known = any(file.startswith(f"{repo}/") for file in self.hub.files)
            code = "EntryNotFound" if known else "RepoNotFound"
            self._send(404, {"X-Error-Code": code, "Content-Length": "0"})
        else:
            self._send_file(data, body)

    def _send_file(self, data: bytes, body: bool) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        part = data[start:]
        etag = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        headers = {"ETag": f'"{etag}"', "Content-Length": str(len(part))}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, headers)
        if body:
            cut, self.hub.cut = self.hub.cut, None
            self.wfile.write(part[:cut])
            self.close_connection = cut is not None

    def _send(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(key, value)
        self.end_headers()


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Hub]:
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Answers,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
