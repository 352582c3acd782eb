"""Capstan's own server. What is rendered here must parse with the serving image's own command line."""

from __future__ import annotations

from typing import Final

from capstan_operator.core import pods
from capstan_operator.core.model import Manifest

HTTP: Final = 8000
GRPC: Final = 8001
METRICS: Final = 8002
#: Seconds a pod answers on after its end was asked for.
LINGER: Final = 5


def server(image: str, repository: str) -> Manifest:
    """The container. It is alive when it answers, and ready when its models are."""
    return {
        "name": "server",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [
            "capstan-serving",
            "--model-repository",
            repository,
            "--http-port",
            str(HTTP),
            "--grpc-port",
            str(GRPC),
            "--metrics-port",
            str(METRICS),
            "--termination-log",
            "/dev/termination-log",
        ],
        "ports": [
            {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS, "protocol": "TCP"},
        ],
        # Large models take their time to load; once it is up, a server that hangs is found within a minute.
        "startupProbe": _probe("/v2/health/ready", periodSeconds=2, failureThreshold=900),
        "livenessProbe": _probe("/v2/health/live", periodSeconds=15, failureThreshold=4),
        "readinessProbe": _probe("/v2/health/ready", periodSeconds=5, failureThreshold=2),
        # Proxies hear of a pod's end a moment later than the pod: until they have, it goes on answering.
        "lifecycle": {"preStop": {"sleep": {"seconds": LINGER}}},
        "securityContext": dict(pods.READ_ONLY),
    }


def ports() -> list[Manifest]:
    """The Service's ports; gRPC is said to be HTTP/2 without TLS, for the proxies that want to know."""
    return [
        pods.service("http", HTTP, appProtocol="http"),
        pods.service("grpc", GRPC, appProtocol="kubernetes.io/h2c"),
        pods.service("metrics", METRICS, appProtocol="http"),
    ]


def _probe(path: str, **times: int) -> Manifest:
    return {"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 5, **times}
