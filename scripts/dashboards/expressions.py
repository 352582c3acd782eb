"""What a dashboard asks Prometheus, with its variables given values as Grafana gives them."""

from collections.abc import Iterator
from typing import Any


def asked(text: str, namespace: str, name: str, interval: str = "30s", window: str = "15m") -> str:
    """An expression or a legend as Grafana sends it. `interval`: what rates are over; `window`: what is shown."""
    values = {"$namespace": namespace, "$name": name, "$__rate_interval": interval, "$__range": window}
    for variable, value in values.items():
        text = text.replace(variable, value)
    return text


def expressions(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The title of each panel with each of its expressions."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
