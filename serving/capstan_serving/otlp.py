"""Where traces go: an OTLP collector, as a flag or OpenTelemetry's environment variables name it.

The front end records requests and encodes them (`native/src/trace`). Here one thread takes what there is, a
batch at a time, and posts it. What cannot be delivered is dropped and counted; no request ever waits for it.
"""

import gzip
import logging
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit

from capstan_serving import __version__
from capstan_serving._native import Tracer

_log = logging.getLogger(__name__)

_ATTEMPTS = 4
"""Of a batch that the collector cannot take now."""
_LAST_WORDS = 3.0
"""Seconds that exporting what is left may take at the end."""
_AGAIN = (429, 502, 503, 504)
"""The statuses after which OTLP lets a client try again."""

_SAMPLERS = {
    "always_on": (False, 1.0),
    "always_off": (False, 0.0),
    "traceidratio": (False, None),
    "parentbased_always_on": (True, 1.0),
    "parentbased_always_off": (True, 0.0),
    "parentbased_traceidratio": (True, None),
}
"""Whether the sender's decision counts, and how many of the others; None: the sampler's argument."""


class Misconfigured(Exception):
    """The text names the variable, and says what to do."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where, what and how fast to export."""

    url: str
    headers: Mapping[str, str]
    timeout: float
    compressed: bool
    tls: ssl.SSLContext | None
    resource: tuple[tuple[str, str], ...]
    parent_based: bool
    ratio: float
    queue_size: int
    """Spans that may wait."""
    batch_size: int
    """Spans exported together."""
    delay: float
    """Seconds after which what there is goes out."""

    def tracer(self) -> Tracer:
        """What the front end records in."""
        return Tracer(
            resource=list(self.resource),
            parent_based=self.parent_based,
            ratio=self.ratio,
            queue_size=self.queue_size,
            batch_size=self.batch_size,
        )


def collector(flag: str | None, environment: Mapping[str, str]) -> Collector | None:
    """The collector, if one is named. Misconfigured when it cannot be used so."""
    variables = _Variables(environment)
    url = variables.endpoint(flag)
    if url is None:
        return None
    if (protocol := variables.of_traces("PROTOCOL", "http/protobuf")) != "http/protobuf":
        raise Misconfigured(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}; set it to http/protobuf (a collector's port 4318)"
        )
    compression = variables.of_traces("COMPRESSION", "none")
    if compression not in ("none", "gzip"):
        raise Misconfigured(f"OTEL_EXPORTER_OTLP_COMPRESSION is {compression!r}; set it to gzip or none")
    parent_based, ratio = variables.sampler()
    batch_size = variables.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)
    return Collector(
        url=url,
        headers=_pairs("OTEL_EXPORTER_OTLP_HEADERS", variables.of_traces("HEADERS", "")),
        timeout=float(variables.of_traces_number("TIMEOUT", 10_000)) / 1000,
        compressed=compression == "gzip",
        tls=variables.tls() if url.startswith("https:") else None,
        resource=tuple(variables.resource().items()),
        parent_based=parent_based,
        ratio=ratio,
        queue_size=max(batch_size, variables.number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)),
        batch_size=batch_size,
        delay=variables.number("OTEL_BSP_SCHEDULE_DELAY", 5_000) / 1000,
    )


class _Variables:
    """OpenTelemetry's environment variables; an empty one is as good as none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._values = {name: text.strip() for name, text in environment.items() if text.strip()}

    def endpoint(self, flag: str | None) -> str | None:
        """Where to post; the variable for traces alone is a whole address, the others lack the path."""
        get = self._values.get
        base = flag or get("OTEL_EXPORTER_OTLP_ENDPOINT")
        url = f"{base.rstrip('/')}/v1/traces" if base else None
        if not flag:
            if (
                get("OTEL_SDK_DISABLED", "").lower() == "true"
                or get("OTEL_TRACES_EXPORTER", "otlp") == "none"
            ):
                return None
            url = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
        if url is not None:
            try:
                parts = urlsplit(url)
                usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            except ValueError:
                usable = False
            if not usable:
                raise Misconfigured(f"{url!r} is no address of a collector; write http://collector:4318")
        return url

    def of_traces(self, name: str, default: str) -> str:
        """An option of the exporter: for traces, or else for all signals."""
        everywhere = self._values.get(f"OTEL_EXPORTER_OTLP_{name}", default)
        return self._values.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", everywhere)

    def of_traces_number(self, name: str, default: int) -> int:
        return _number(f"OTEL_EXPORTER_OTLP_{name}", self.of_traces(name, str(default)))

    def number(self, name: str, default: int) -> int:
        return _number(name, self._values.get(name, str(default)))

    def sampler(self) -> tuple[bool, float]:
        """Which of the traces are recorded."""
        name = self._values.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        if name not in _SAMPLERS:
            raise Misconfigured(f"OTEL_TRACES_SAMPLER is {name!r}; set it to one of {', '.join(_SAMPLERS)}")
        parent_based, ratio = _SAMPLERS[name]
        if ratio is None:
            text = self._values.get("OTEL_TRACES_SAMPLER_ARG", "1")
            try:
                ratio = float(text)
            except ValueError:
                ratio = -1.0
            if not 0 <= ratio <= 1:
                raise Misconfigured(f"OTEL_TRACES_SAMPLER_ARG is {text!r}; set it to a number from 0 to 1")
        return parent_based, ratio

    def resource(self) -> dict[str, str]:
        """What every span is of."""
        given = _pairs("OTEL_RESOURCE_ATTRIBUTES", self._values.get("OTEL_RESOURCE_ATTRIBUTES", ""))
        named = {"service.name": name} if (name := self._values.get("OTEL_SERVICE_NAME")) else {}
        ours = {
            "service.name": "capstan-serving",
            "service.version": __version__,
            "host.name": socket.gethostname(),
            "telemetry.sdk.name": "capstan-serving",
            "telemetry.sdk.language": "rust",
            "telemetry.sdk.version": __version__,
        }
        return ours | given | named

    def tls(self) -> ssl.SSLContext:
        """Whom to trust, and who this is."""
        try:
            context = ssl.create_default_context(cafile=self.of_traces("CERTIFICATE", "") or None)
            if chain := self.of_traces("CLIENT_CERTIFICATE", ""):
                context.load_cert_chain(chain, self.of_traces("CLIENT_KEY", "") or None)
        except OSError as error:  # ssl's errors are
            raise Misconfigured(
                f"the files of OTEL_EXPORTER_OTLP_CERTIFICATE, _CLIENT_CERTIFICATE and _CLIENT_KEY "
                f"cannot be used ({error}); correct them"
            ) from error
        return context


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise Misconfigured(f"{name} is {text!r}; set it to a whole number above 0")
    return int(text)


def _pairs(name: str, text: str) -> dict[str, str]:
    """`key=value` with commas between, each percent-encoded."""
    pairs = {}
    for part in text.split(","):
        key, found, value = part.partition("=")
        if found and key.strip():
            pairs[unquote(key.strip())] = unquote(value.strip())
        elif part.strip():
            # It may be a secret, so it is not shown.
            raise Misconfigured(f"{name} has a part that is no key=value; correct it")
    return pairs


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would make a GET of a POST."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Exporter:
    """Posts what is recorded, until it is told to stop."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.tracer = collector.tracer()
        """What the front end records in."""
        self._headers = {"User-Agent": f"capstan-serving/{__version__}", **collector.headers}
        self._headers["Content-Type"] = "application/x-protobuf"
        if collector.compressed:
            self._headers["Content-Encoding"] = "gzip"
        tls = [urllib.request.HTTPSHandler(context=collector.tls)] if collector.tls else []
        self._opener = urllib.request.build_opener(_Stay, *tls)
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="export-traces", daemon=True)
        self.exported = 0
        """Spans that the collector has taken."""
        self.lost = 0
        """Spans that it has not."""
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Spans that were not exported, for want of room or of a collector."""
        return self.lost + self.tracer.dropped

    def stop(self) -> None:
        """Export what there is, if that goes quickly, and end."""
        self._deadline = time.monotonic() + _LAST_WORDS
        self._stopping.set()
        self.tracer.close()
        self._thread.join(_LAST_WORDS + 1)

    def _run(self) -> None:
        while True:
            batch = self.tracer.take(self._collector.delay)
            if batch is None:
                if self._stopping.is_set():
                    return
                continue
            request, spans = batch
            try:
                self._post(gzip.compress(request) if self._collector.compressed else request)
            except (OSError, HTTPException, ValueError) as error:
                self.lost += spans
                if not self._failing:
                    _log.warning(
                        "traces cannot be exported to %s (%s); they are dropped until they can",
                        self._collector.url,
                        error,
                    )
                self._failing = True
            else:
                self.exported += spans
                if self._failing:
                    _log.info("traces are exported again")
                self._failing = False

    def _post(self, body: bytes) -> None:
        """Post a batch, again after a while where OTLP allows it. OSError when it is in vain."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._once(body)
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in _AGAIN or attempt == _ATTEMPTS:
                        raise
                    asked = error.headers.get("Retry-After", "")
                pause = min(30, int(asked)) if asked.isdecimal() else 2 ** (attempt - 1)
            except (OSError, HTTPException):
                if attempt == _ATTEMPTS:
                    raise
                pause = 2 ** (attempt - 1)
            if self._stopping.wait(pause):
                return self._once(body)
        return None

    def _once(self, body: bytes) -> None:
        timeout = min(self._collector.timeout, self._deadline - time.monotonic())
        if timeout <= 0:
            raise TimeoutError("the server ends")
        request = urllib.request.Request(self._collector.url, body, self._headers)  # noqa: S310 - checked above
        with self._opener.open(request, timeout=timeout) as response:
            response.read()
