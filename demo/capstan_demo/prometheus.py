"""The demo's Prometheus: put on the cluster, and asked through the API server, so it needs no free port."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from capstan_demo.deploy import ROOT
from capstan_demo.digits import NAME, NAMESPACE
from capstan_demo.kube import Kube, KubectlError, Manifest, until

MONITORING = "capstan-monitoring"
FOLDER = ROOT / "manifests" / "observability"
PROXY = f"/api/v1/namespaces/{MONITORING}/services/prometheus:http/proxy/api/v1"


def watch(kube: Kube, image: str, folder: Path = FOLDER) -> str:
    """Apply manifests/observability with this image; what it takes to start is not waited for."""
    documents = [doc for doc in yaml.safe_load_all(kube.run("kustomize", str(folder))) if doc]
    for document in documents:
        if document["kind"] == "Deployment":
            for container in document["spec"]["template"]["spec"]["containers"]:
                container["image"] = image
    return kube.apply(*documents)


class Prometheus:
    """Prometheus' HTTP API, behind the API server's proxy."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; KubectlError with Prometheus' own words when it is none."""
        query = f"?{urlencode(parameters)}" if parameters else ""
        return json.loads(self._kube.run("get", "--raw", f"{PROXY}/{path}{query}"))["data"]

    def query(self, expression: str) -> list[Manifest]:
        """Return the result of an instant query: [{"metric": {...}, "value": [time, "1.5"]}, ...]."""
        result: list[Manifest] = self.get("query", query=expression)["result"]
        return result

    def number(self, expression: str) -> float | None:
        """Return the one number that an expression is; None when there is none."""
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else None


def seen(prometheus: Prometheus, requests: int) -> list[tuple[str, str]]:
    """Return what Prometheus knows of the demo, as rows, once it has seen this many answered requests."""
    service = f'namespace="{NAMESPACE}",name="{NAME}"'
    answered = f"sum(nv_inference_request_success{{{service}}})"

    def all_seen() -> bool:
        try:
            return (prometheus.number(answered) or 0) >= requests
        except KubectlError:  # it may still be starting
            return False

    until(all_seen, seconds=60, last=lambda: f"Prometheus has not seen {requests} requests: {answered}")
    p99 = prometheus.number(
        "histogram_quantile(0.99, sum by (le)"
        f" (capstan_inference_request_duration_seconds_bucket{{{service}}}))"
    )
    cpu = prometheus.number(f"sum(max_over_time(capstan_agent_cpu_seconds_total{{{service}}}[10m]))")
    memory = prometheus.number(
        f"max(max_over_time(capstan_agent_memory_working_set_bytes{{{service}}}[10m]))"
    )
    passes = prometheus.number("sum(capstan_operator_reconciles_total)")
    return [
        (
            "requests answered",
            f"{prometheus.number(answered):.0f}, 99% of them within {(p99 or 0) * 1000:.1f} ms",
        ),
        (
            "training",
            f"{cpu or 0:.0f} s of processor time, {(memory or 0) / 2**20:.0f} MiB in the larger replica",
        ),
        ("operator", f"{passes or 0:.0f} passes over resources"),
    ]
