"""An operator of one kind, Widget, on the real shell: run by the tests as a process that can be killed.

Its plan is small and has everything: children that are repaired, a decision that is recorded first (each new
spec.version is one attempt, a suspended Job of its own), pruning and events.
"""

import asyncio
import signal
import sys
from datetime import datetime

from capstan_operator.core.model import ChildKind, Event, Kind, Manifest, ObjectRef, Observed, Plan, Settings
from capstan_operator.shell import logs
from capstan_operator.shell.options import options, parser
from capstan_operator.shell.run import run

GROUP = "shell.test.capstan.dev"


def child(owner: Manifest, api_version: str, kind: str, name: str, **rest: object) -> Manifest:
    metadata = owner["metadata"]
    reference = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Widget",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    labels = {
        "app.kubernetes.io/managed-by": "capstan",
        "capstan.dev/kind": "Widget",
        "capstan.dev/name": metadata["name"],
    }
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [reference],
        },
        **rest,
    }


def job(owner: Manifest, attempt: int) -> Manifest:
    container = {"name": "main", "image": "example.invalid/none"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    name = f"{owner['metadata']['name']}-{attempt}"
    return child(owner, "batch/v1", "Job", name, spec={"suspend": True, "template": template})


def plan(resource: Manifest, seen: Observed, now: datetime, settings: Settings) -> Plan:
    del now, settings
    spec, status = resource["spec"], resource.get("status") or {}
    name, version = resource["metadata"]["name"], spec["version"]
    new = status.get("version") != version
    attempt = status.get("attempt", 0) + new
    current = f"{name}-{attempt}"
    jobs = [c for c in seen.children if c["kind"] == "Job"]
    return Plan(
        status={
            "version": version,
            "attempt": attempt,
            "history": [*status.get("history", []), *([version] if new else [])],
            "children": sorted(c["metadata"]["name"] for c in seen.children),
        },
        apply=(
            *(
                child(resource, "v1", "ConfigMap", f"{name}-c{n}", data={"number": str(n)})
                for n in range(spec["size"])
            ),
            job(resource, attempt),
        ),
        delete=tuple(
            ObjectRef(
                "batch/v1", "Job", j["metadata"]["namespace"], j["metadata"]["name"], j["metadata"]["uid"]
            )
            for j in jobs
            if j["metadata"]["name"] != current and "deletionTimestamp" not in j["metadata"]
        ),
        events=(Event("Normal", "Attempt", f"attempt {attempt} for version {version}"),) if new else (),
        decision=new,
    )


WIDGET = Kind(
    api_version=f"{GROUP}/v1",
    kind="Widget",
    plural="widgets",
    children=(ChildKind("v1", "ConfigMap", "configmaps"), ChildKind("batch/v1", "Job", "jobs")),
    plan=plan,
    references=lambda _: (),
)


async def main() -> bool:
    chosen, stop = options(parser().parse_args(["run", *sys.argv[1:]])), asyncio.Event()
    logs.configure(chosen.log_level, chosen.log_format)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return await run(chosen, [WIDGET], stop)


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
