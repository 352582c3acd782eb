"""Tells Prometheus which pods of Capstan there are: Debian's is built without Kubernetes' service discovery.

Lists the pods of the namespaces in NAMESPACES every second and writes the ports named metrics to the file in
TARGETS, with the labels that Prometheus' own discovery (role: pod) gives, so that relabelling is the same.
"""

import json
import os
import re
import ssl
import time
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SELECTOR = "app.kubernetes.io%2Fpart-of%3Dcapstan"


def targets(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups of one pod; none before it has an address."""
    metadata, status = pod["metadata"], pod.get("status", {})
    labels = {
        "__meta_kubernetes_namespace": metadata["namespace"],
        "__meta_kubernetes_pod_name": metadata["name"],
        "__meta_kubernetes_pod_phase": status.get("phase", ""),
        "__meta_kubernetes_pod_container_port_name": "metrics",
    } | {
        "__meta_kubernetes_pod_label_" + re.sub(r"[^a-zA-Z0-9_]", "_", key): value
        for key, value in metadata.get("labels", {}).items()
    }
    ports = [
        port["containerPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        if port.get("name") == "metrics" and status.get("podIP")
    ]
    return [{"targets": [f"{status['podIP']}:{port}"], "labels": labels} for port in ports]


def pods(namespace: str) -> list[dict[str, Any]]:
    """The pods of ours in a namespace, asked of the API server."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods?labelSelector={SELECTOR}",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
    )
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:  # noqa: S310
        found: list[dict[str, Any]] = json.load(answer)["items"]
        return found


def main() -> None:
    """Write the file whenever it changes, for ever."""
    file, written = Path(os.environ["TARGETS"]), ""
    while True:
        try:
            found = [pod for namespace in os.environ["NAMESPACES"].split(",") for pod in pods(namespace)]
        except OSError as error:
            print(f"cannot list pods, trying again: {error}", flush=True)
        else:
            text = json.dumps([group for pod in found for group in targets(pod)], indent=1)
            if text != written:
                partial = file.with_suffix(".partial")
                partial.write_text(text)
                partial.rename(file)
                written = text
        time.sleep(1)


if __name__ == "__main__":
    main()
