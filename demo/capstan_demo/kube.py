"""The few things the demo and the end-to-end tests ask of a cluster, through kubectl as a user would.

Every wait is on a condition with a deadline, and says what it last saw when the deadline passes.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

Manifest = dict[str, Any]

POLL = 0.25  # seconds between two looks at the cluster


class KubectlError(Exception):
    """kubectl said no; the message is what it said."""


class WaitTimeout(Exception):
    """A condition was not met in time; the message holds what was last seen."""


@dataclass(frozen=True, slots=True)
class Kube:
    """One cluster, as a kubeconfig context names it. `kubeconfig`: a path, or several as in KUBECONFIG."""

    kubeconfig: str
    context: str
    kubectl: str = "kubectl"

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which kubectl and helm find the cluster."""
        return {**os.environ, "KUBECONFIG": self.kubeconfig}

    def command(self, *args: str) -> list[str]:
        """Return the kubectl command line for these arguments."""
        return [self.kubectl, "--context", self.context, *args]

    def run(self, *args: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Run kubectl and return its standard output; raise KubectlError with its standard error."""
        done = subprocess.run(
            self.command(*args),
            env=self.environment, input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise KubectlError(
                done.stderr.strip() or f"kubectl {' '.join(args)} exited with {done.returncode}"
            )
        return done.stdout

    def apply(self, *manifests: Manifest, namespace: str | None = None) -> str:
        """Apply manifests server-side, as `kubectl apply --server-side -f -` does."""
        where = ["-n", namespace] if namespace else []
        return self.run(
            "apply",
            "--server-side",
            "--force-conflicts",
            *where,
            "-f",
            "-",
            stdin=yaml.safe_dump_all(manifests),
        )

    def get(self, kind: str, name: str, namespace: str | None = None) -> Manifest | None:
        """Return one object, or None when there is none of that name."""
        where = ["-n", namespace] if namespace else []
        text = self.run("get", kind, name, *where, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, namespace: str, selector: str = "") -> list[Manifest]:
        """Return the objects of a kind in a namespace that a label selector picks."""
        text = self.run("get", kind, "-n", namespace, "-l", selector, "-o", "json")
        items: list[Manifest] = json.loads(text)["items"]
        return items

    def delete(self, kind: str, name: str, namespace: str | None = None, *, wait: bool = True) -> None:
        """Delete one object if it is there, and its dependents first."""
        where = ["-n", namespace] if namespace else []
        self.run(
            "delete", kind, name, *where, "--ignore-not-found",
            f"--wait={str(wait).lower()}", "--cascade=foreground", timeout=300,
        )  # fmt: skip

    def patch(self, kind: str, name: str, patch: Manifest, namespace: str | None = None) -> None:
        """Merge a patch into one object."""
        where = ["-n", namespace] if namespace else []
        self.run("patch", kind, name, *where, "--type=merge", "-p", json.dumps(patch))

    def wait(
        self,
        kind: str,
        name: str,
        namespace: str,
        met: Callable[[Manifest], bool],
        *,
        seconds: float = 120,
        seen: Callable[[Manifest], None] = lambda _: None,
    ) -> Manifest:
        """Return the object once it meets a condition; `seen` is shown every look at it.

        Raises WaitTimeout with the object's status when it does not meet the condition in time.
        """
        found: Manifest = {}

        def look() -> bool:
            nonlocal found
            found = self.get(kind, name, namespace) or {}
            if found:
                seen(found)
            return bool(found) and met(found)

        until(
            look,
            seconds=seconds,
            last=lambda: f"{kind} {name}: {json.dumps(found.get('status', {}), indent=1)}",
        )
        return found

    @contextmanager
    def port_forward(self, resource: str, namespace: str, *ports: int) -> Iterator[dict[int, int]]:
        """Forward ports of a pod or service to free local ones; yield {remote: local}."""
        process = subprocess.Popen(
            self.command("port-forward", "-n", namespace, resource, *(f":{p}" for p in ports)),
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            local: dict[int, int] = {}
            while len(local) < len(ports):
                line = process.stdout.readline() if process.stdout else ""
                if not line:
                    raise KubectlError(f"port-forward to {resource} ended with {process.wait()}")
                if line.startswith("Forwarding from 127.0.0.1:"):
                    here, there = line.removeprefix("Forwarding from 127.0.0.1:").split(" -> ")
                    local[int(there)] = int(here)
            yield local
        finally:
            process.terminate()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def until(met: Callable[[], bool], *, seconds: float, last: Callable[[], str] = lambda: "") -> None:
    """Return once a condition is met; raise WaitTimeout, with what was last seen, when it is not in time."""
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            raise WaitTimeout(f"not met within {seconds:.0f} s. Last seen: {last()}")
        time.sleep(POLL)


def condition(resource: Manifest, kind: str) -> Manifest:
    """Return a resource's condition of one type, or an empty one."""
    found: list[Manifest] = [c for c in resource.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}
