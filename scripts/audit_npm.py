"""Known vulnerabilities in what an npm lock names, as OSV tells them: what `make audit` runs first.

Nothing is found where nobody can be asked, so that is an error, and said in one sentence.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

SERVICE = os.environ.get("OSV_URL") or "https://api.osv.dev"
PATIENCE = 30.0
#: What one question may hold.
BATCH = 1000

Package = tuple[str, str]


def locked(lock: Path) -> list[Package]:
    """The packages of a lock, each a name and a version."""
    packages = json.loads(lock.read_text())["packages"]
    return sorted(
        {
            (package.get("name") or path.rpartition("node_modules/")[2], package["version"])
            for path, package in packages.items()
            if path and not package.get("link")
        }
    )


def vulnerabilities(packages: list[Package]) -> dict[Package, list[str]]:
    """What is known of them, where anything is."""
    found: dict[Package, list[str]] = {}
    for start in range(0, len(packages), BATCH):
        some = packages[start : start + BATCH]
        queries = [{"package": {"ecosystem": "npm", "name": name}, "version": v} for name, v in some]
        question = urllib.request.Request(  # noqa: S310  (the address is ours, or whose machine it is)
            f"{SERVICE.rstrip('/')}/v1/querybatch",
            json.dumps({"queries": queries}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(question, timeout=PATIENCE) as answer:  # noqa: S310
            results = json.load(answer)["results"]
        for package, result in zip(some, results, strict=True):
            if result.get("vulns"):
                found[package] = [known["id"] for known in result["vulns"]]
    return found


def main(lock: Path) -> int:
    """Look a lock up; 1 when something is known of it, 2 when nobody could be asked."""
    packages = locked(lock)
    try:
        found = vulnerabilities(packages)
    except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = getattr(error, "reason", None) or error
        print(
            f"{SERVICE} cannot be asked from here ({reason}), so nothing was looked up: run this where it"
            " can be reached, or name another service that speaks OSV's protocol in OSV_URL.",
            file=sys.stderr,
        )
        return 2
    for (name, version), known in found.items():
        print(f"{lock}: {name} {version}: {', '.join(known)}")
    print(f"{lock}: {len(packages)} packages, {len(found)} with known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
