"""Asks a component whether it is well."""

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from capstan_cluster.components import Component, Probe

_TIMEOUT = 2.0
_DIRECT = urllib.request.ProxyHandler({})  # never through a proxy of the environment


def healthy(component: Component, ca: Path) -> bool:
    """Whether it answers as it should. `ca`: the cluster's authority."""
    match component.probe:
        case None:
            return True
        case Path() as path:
            return _accepts(path)
        case Probe() as probe:
            return _answers(probe, ca)


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(_TIMEOUT)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


def _answers(probe: Probe, ca: Path) -> bool:
    try:
        handlers: list[urllib.request.BaseHandler] = [_DIRECT]
        if probe.trust != "none":
            handlers.append(urllib.request.HTTPSHandler(context=_context(probe, ca)))
        with urllib.request.build_opener(*handlers).open(probe.url, timeout=_TIMEOUT) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError, http.client.HTTPException):
        return False


def _context(probe: Probe, ca: Path) -> ssl.SSLContext:
    if probe.trust == "ca":
        return ssl.create_default_context(cafile=str(ca))
    context = ssl.create_default_context()
    # a certificate it made for itself in memory; the address is loopback and nothing secret is asked
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
