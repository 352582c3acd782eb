"""Draws each dashboard as Grafana shows it, from what a Prometheus has seen: the pictures of docs/observability.md.

    make demo && scripts/run --group pictures python scripts/pictures.py --minutes 10

Asks the demo's Prometheus, by the expressions of manifests/dashboards, and writes docs/images/dashboard-*.png.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from capstan_cluster.target import resolve
from capstan_demo.digits import NAME, NAMESPACE
from capstan_demo.kube import Kube
from capstan_demo.prometheus import Prometheus
from dashboards.expressions import asked
from matplotlib import dates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

mpl.use("Agg")
ROOT = Path(__file__).resolve().parents[1]
BACKGROUND, PANEL, BORDER, TEXT, DIM, GRID = "#111217", "#181b1f", "#25282e", "#d8d9da", "#9a9ca5", "#2a2d33"
COLOURS = ("#73BF69", "#F2CC0C", "#8AB8FF", "#FF9830", "#F2495C", "#B877D9", "#5794F2", "#FADE2A")
NAMED = {"green": "#73BF69", "yellow": "#F2CC0C", "red": "#F2495C", "blue": "#8AB8FF"}
# Grafana's grid is 24 columns wide; a unit of height is about 30 pixels.
COLUMN, HEIGHT, GAP, TOP, DPI = 50, 31, 8, 60, 100


@dataclass(frozen=True, slots=True)
class Window:
    """What is asked of whom, from when to when."""

    prometheus: Prometheus
    start: float
    end: float

    def now(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """The series of an instant query."""
        result: list[dict[str, Any]] = self._ask("query", target, time=str(self.end))
        return result

    def over_time(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """The series of a range query."""
        step = max(1, round((self.end - self.start) / 300))
        result: list[dict[str, Any]] = self._ask(
            "query_range", target, start=str(self.start), end=str(self.end), step=str(step)
        )
        return result

    def _ask(self, path: str, target: dict[str, Any], **parameters: str) -> Any:
        window = f"{self.end - self.start:.0f}s"
        expression = asked(target["expr"], NAMESPACE, NAME, window=window)
        return self.prometheus.get(path, query=expression, **parameters)["result"]


def value(amount: float, unit: str) -> str:
    """A number with its unit, as Grafana writes it."""
    if amount != amount:
        return "No data"
    match unit:
        case "bytes":
            return _scaled(amount, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
        case "s" if 0 < abs(amount) < 1:
            return f"{_short(amount * 1e6)} µs" if abs(amount) < 1e-3 else f"{_short(amount * 1e3)} ms"
        case "s":
            return f"{_short(amount)} s" if amount < 60 else f"{_short(amount / 60)} mins"
        case "percentunit":
            return f"{_short(amount * 100)}%"
    return _short(amount) + {"reqps": " req/s", "ops": " ops/s", "wps": " lines/s"}.get(unit, "")


def _short(amount: float) -> str:
    return f"{amount:.3g}" if abs(amount) < 1000 else f"{amount:,.0f}"


def _scaled(amount: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if abs(amount) < base:
            return f"{_short(amount)} {unit}"
        amount /= base
    return f"{_short(amount)} {units[-1]}"


def legend(text: str, labels: dict[str, str]) -> str:
    """A series' name."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), text)


def draw_number(axes: Axes, panel: dict[str, Any], window: Window) -> None:
    """The value now, large."""
    (target,) = panel["targets"]
    found = window.now(target)
    defaults = panel["fieldConfig"]["defaults"]
    number = float(found[0]["value"][1]) if found else float("nan")
    colour = NAMED["blue"]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or number >= step["value"]:
            colour = NAMED[step["color"]]
    named = panel["options"].get("textMode") == "name" and found
    text = legend(target["legendFormat"], found[0]["metric"]) if named else value(number, defaults["unit"])
    axes.text(
        0.5,
        0.42,
        text,
        color=colour,
        fontsize=21 if len(text) < 9 else 16,
        ha="center",
        va="center",
    )
    axes.axis("off")


def draw_lines(axes: Axes, panel: dict[str, Any], window: Window) -> None:
    """The values over time, with a legend below."""
    defaults, handles = panel["fieldConfig"]["defaults"], []
    unit, custom = defaults["unit"], defaults.get("custom", {})
    stacked = custom.get("stacking", {}).get("mode") == "normal"
    base: dict[float, float] = {}
    series = [
        (legend(target["legendFormat"], found["metric"]), found["values"])
        for target in panel["targets"]
        for found in window.over_time(target)
    ]
    for place, (name, points) in enumerate(series):
        colour, below = COLOURS[place % len(COLOURS)], [base.get(at, 0.0) for at, _ in points]
        above = [float(text) + (low if stacked else 0) for (_, text), low in zip(points, below, strict=True)]
        if stacked:
            base |= {at: high for (at, _), high in zip(points, above, strict=True) if high == high}
        when = [dates.date2num(mpl.dates.num2date(at / 86400)) for at, _ in points]
        (line,) = axes.plot(when, above, color=colour, linewidth=1.3, label=name)
        axes.fill_between(
            when, below if stacked else 0, above, color=colour, alpha=0.22 if stacked else 0.07, linewidth=0
        )
        handles.append(line)
    axes.set_xlim(window.start / 86400, window.end / 86400)
    axes.set_ylim(
        0,
        1.08 * max((high for line in axes.lines for high in line.get_ydata() if high == high), default=0)
        or 1,
    )
    axes.xaxis.set_major_formatter(
        dates.DateFormatter("%H:%M" if window.end - window.start > 900 else "%H:%M:%S")
    )
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=7))
    axes.yaxis.set_major_locator(
        mpl.ticker.MaxNLocator(5, integer=unit == "short" and axes.get_ylim()[1] > 2)
    )
    axes.yaxis.set_major_formatter(lambda amount, _: value(amount, unit))
    axes.grid(color=GRID, linewidth=0.7)
    axes.tick_params(colors=DIM, labelsize=7.5, length=0)
    axes.set_facecolor(PANEL)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if handles:
        # Two rows of them, in columns as wide as the longest name.
        wide = axes.get_position().width * axes.figure.get_figwidth() * DPI
        columns = max(1, int((wide + 30) // (max(len(name) for name, _ in series) * 6 + 45)))
        axes.legend(
            handles=handles[: 2 * columns], loc="upper left", bbox_to_anchor=(-0.06, -0.12), ncols=columns,
            fontsize=7.5, labelcolor=TEXT, frameon=False, handlelength=1.2, columnspacing=1.4, handletextpad=0.5, borderaxespad=0,
        )  # fmt: skip
    else:
        axes.text(
            0.5, 0.5, "No data", color=DIM, fontsize=11, ha="center", va="center", transform=axes.transAxes
        )


def draw_table(axes: Axes, panel: dict[str, Any], window: Window) -> None:
    """A row for each series."""
    (target,), (transformation,) = panel["targets"], panel["transformations"]
    names, order = (transformation["options"][what] for what in ("renameByName", "indexByName"))
    columns: dict[str, str] = {label: names[label] for label in sorted(names, key=lambda label: order[label])}
    rows = [list(columns.values())]
    rows += [[found["metric"].get(label, "") for label in columns] for found in window.now(target)][:8]
    for line, row in enumerate(rows):
        for place, cell in enumerate(row):
            colour, weight = (NAMED["blue"], "bold") if line == 0 else (TEXT, "normal")
            axes.text(
                place / len(row),
                0.95 - line * 0.12,
                cell,
                color=colour,
                fontsize=8.5,
                weight=weight,
                va="center",
            )
        axes.axhline(0.89 - line * 0.12, color=GRID, linewidth=0.7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.axis("off")


DRAWN: dict[str, Callable[[Axes, dict[str, Any], Window], None]] = {
    "stat": draw_number,
    "timeseries": draw_lines,
    "table": draw_table,
}


def picture(dashboard: dict[str, Any], window: Window) -> Figure:
    """The whole dashboard, panel by panel."""
    panels = dashboard["panels"]
    wide = 24 * COLUMN + 2 * GAP
    high = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * HEIGHT + TOP + GAP
    figure = plt.figure(figsize=(wide / DPI, high / DPI), dpi=DPI, facecolor=BACKGROUND)
    figure.text(
        2 * GAP / wide,
        1 - 24 / high,
        dashboard["title"],
        color=TEXT,
        fontsize=13,
        va="center",
    )
    chosen = [variable["name"] for variable in dashboard["templating"]["list"][1:]]
    values = {"namespace": "All" if dashboard["uid"] == "capstan-fleet" else NAMESPACE, "name": NAME}
    shown = "   ".join(f"{name}: {values[name]}" for name in chosen)
    figure.text(1 - 2 * GAP / wide, 1 - 24 / high, shown, color=DIM, fontsize=9.5, ha="right", va="center")
    for panel in panels:
        place = panel["gridPos"]
        left, width = GAP + place["x"] * COLUMN, place["w"] * COLUMN
        top, height = TOP - GAP + place["y"] * HEIGHT, place["h"] * HEIGHT
        if panel["type"] == "row":
            figure.text(
                (left + GAP) / wide,
                1 - (top + height / 2 + 2) / high,
                f"⌄  {panel['title']}",
                color=TEXT,
                fontsize=10.5,
                va="center",
            )
            continue
        box = (
            (left + GAP / 2) / wide,
            1 - (top + height - GAP / 2) / high,
            (width - GAP) / wide,
            (height - GAP) / high,
        )
        figure.patches.append(
            mpl.patches.Rectangle(
                box[:2],
                *box[2:],
                transform=figure.transFigure,
                facecolor=PANEL,
                edgecolor=BORDER,
                linewidth=0.8,
                zorder=-1,
            )
        )
        figure.text(
            (left + 14) / wide,
            1 - (top + 18) / high,
            panel["title"],
            color=TEXT,
            fontsize=9,
            va="center",
        )
        inner = {"stat": (10, 34, 20, 44), "table": (14, 38, 28, 50), "timeseries": (74, 38, 94, 94)}[
            panel["type"]
        ]
        across, down, narrower, shorter = inner
        bounds = (
            (left + across) / wide,
            1 - (top + height - shorter + down) / high,
            (width - narrower) / wide,
            (height - shorter) / high,
        )
        axes = figure.add_axes(bounds)
        DRAWN[panel["type"]](axes, panel, window)
    return figure


def main() -> None:
    """Draw them all."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=10, help="how much to show (default: %(default)s)")
    options.add_argument("--context", help="a context of your kubeconfig (default: the local cluster)")
    options.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    given = options.parse_args()
    target = resolve(given.context)
    end = time.time()
    prometheus = Prometheus(Kube(target.kubeconfig, target.context, target.kubectl_program))
    window = Window(prometheus, end - given.minutes * 60, end)
    given.folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "manifests/dashboards").glob("*.json")):
        file = given.folder / path.name.replace("capstan-", "dashboard-").replace(".json", ".png")
        drawn = picture(json.loads(path.read_text()), window)
        drawn.canvas.draw()
        pixels = Image.frombytes("RGBA", drawn.canvas.get_width_height(), drawn.canvas.buffer_rgba())
        pixels.convert("RGB").quantize(128).save(file, optimize=True)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
