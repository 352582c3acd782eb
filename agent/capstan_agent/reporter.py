"""Tells the operator what a program has reported: now and then, the last word only, with the pod's own token.

One thread, which begins with the first report and ends with the process. Whatever goes wrong in it costs a
report, and one line in the log until it goes well again. Of several operators one leads and takes reports,
the others say 503: a Service picks one of them for each connection, so a few connections find it.
"""

import encodings.idna  # noqa: F401  isort: skip  (named here so that `install` finds what host names need)
import http.client
import json
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from capstan_agent.keeper import Saved
from capstan_agent.report import Report

URL = "CAPSTAN_REPORT_URL"
AUTHORITY = "CAPSTAN_REPORT_CA"
TOKEN = "CAPSTAN_REPORT_TOKEN_FILE"  # noqa: S105  (a variable that names a file)

INTERVAL = 10.0
_PATIENCE = 5.0
_TRIES = 6
_PAUSE = 0.2
_LONGEST = 600
_BUSY = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where reports go: the operator's address, its certificate's authority, and the file of our token."""

    url: str
    authority: str
    token: Path

    def post(self, body: bytes) -> tuple[int, str, float]:
        """One request, on a connection of its own: the status, what is said, seconds until the next.

        Raises OSError, HTTPException or ValueError.
        """
        where = urlsplit(self.url)
        host = where.hostname or ""
        if where.scheme != "https":
            raise ValueError("it is not https, and the token goes nowhere else")
        context = ssl.create_default_context(cadata=self.authority or None)
        connection = http.client.HTTPSConnection(host, where.port, timeout=_PATIENCE, context=context)
        headers = {
            "Authorization": f"Bearer {self.token.read_text().strip()}",
            "Content-Type": "application/json",
        }
        try:
            connection.request("POST", where.path or "/", body, headers)
            response = connection.getresponse()
            said = response.read(500).decode("utf-8", "replace").strip()
            pause = response.getheader("Retry-After", "")
            return response.status, said, float(min(int(pause), _LONGEST)) if pause.isdecimal() else 0.0
        finally:
            connection.close()


def endpoint(environment: Mapping[str, str]) -> Endpoint | None:
    """Where the operator wants reports; None for replicas whose reports nobody wants."""
    url, token = environment.get(URL), environment.get(TOKEN)
    if not url or not token or environment.get("CAPSTAN_REPLICA_INDEX", "0") != "0":
        return None
    return Endpoint(url, environment.get(AUTHORITY, ""), Path(token))


class Reporter:
    """The thread that tells."""

    def __init__(self, where: Endpoint, interval: float = INTERVAL) -> None:
        self._where = where
        self._report = Report()
        self._saved: Saved | None = None
        self._interval = self._pause = interval
        self._news = threading.Event()
        self._last = threading.Event()
        self._told = b""
        self._failing = False
        self._thread: threading.Thread | None = None

    def note(self, news: Report | Saved) -> None:
        """There is something new to tell."""
        if isinstance(news, Saved):
            self._saved = news
        else:
            self._report = news
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # the container may have no more threads
                print(f"capstan: progress is not reported: {error}", file=sys.stderr)

    def finish(self, patience: float) -> None:
        """Tell the last word, if it is new; `patience` seconds at most, and none where nobody was reached."""
        self._last.set()
        self._news.set()
        if self._thread is not None and self._thread.is_alive() and not self._failing:
            self._thread.join(patience)

    def _run(self) -> None:
        while not self._last.is_set():
            self._news.wait(self._interval if self._failing else None)
            self._news.clear()
            self._tell()
            self._last.wait(self._pause)
        self._tell()

    def _tell(self) -> None:
        saved = {"checkpoint": self._saved.json()} if self._saved else {}
        body = json.dumps(self._report.json() | saved).encode()
        if body == self._told:
            return
        why = self._try(body)
        if why is None:
            self._told, self._failing = body, False
        elif not self._failing:
            self._failing = True
            print(
                f"capstan: progress does not reach the operator, the program goes on without: {why}",
                file=sys.stderr,
            )

    def _try(self, body: bytes) -> str | None:
        """None when it was taken, else why not."""
        why = ""
        for tries in range(_TRIES):
            if tries:
                time.sleep(_PAUSE)
            try:
                status, said, pause = self._where.post(body)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = f"{self._where.url}: {error}"
                break
            if status < 300:
                self._pause = max(self._interval, pause)
                return None
            why = f"{self._where.url} answered {status}: {said}"
            if status not in _BUSY:
                break
        return why
