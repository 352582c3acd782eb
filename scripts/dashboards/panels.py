"""What all dashboards are made of, so that they look alike."""

from collections.abc import Mapping

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as queries

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"

Queries = Mapping[str, str]
"""The legend of each query, and its expression."""


def board(name: str, title: str, description: str) -> dashboard.Dashboard:
    """An empty dashboard with what it needs to find its data."""
    links = dashboard.DashboardLink("Capstan").type(models.DashboardLinkType.DASHBOARDS).tags(["capstan"])
    return (
        dashboard.Dashboard(f"Capstan / {title}")
        .uid(f"capstan-{name}")
        .description(description)
        .tags(["capstan"])
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(links.as_dropdown(False).include_vars(False).keep_time(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )


def variable(name: str, label: str, query: str, every: bool = False) -> dashboard.QueryVariable:
    """A choice of a label's values; `every` lets all of them be chosen."""
    chosen = (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    return chosen.multi(True).include_all(True).all_value(".*") if every else chosen


def row(title: str) -> dashboard.Row:
    """A headline."""
    return dashboard.Row(title)


def number(
    title: str,
    description: str,
    unit: str,
    expression: str,
    *,
    levels: Mapping[float, str] | None = None,
    legend: str = "",
    span: int = 4,
) -> stat.Panel:
    """The value now. With a legend, that is shown instead of the value. `levels`: from this value on, a colour."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .height(4)
        .span(span)
        .thresholds(_levels(levels or {}))
        .color_mode(common_models.BigValueColorMode.VALUE)
        .graph_mode(common_models.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .with_target(_query("A", expression, legend).instant())
    )
    return panel.text_mode(common_models.BigValueTextMode.NAME) if legend else panel


def lines(
    title: str,
    description: str,
    unit: str,
    series: Queries,
    *,
    span: int = 12,
    stacked: bool = False,
    levels: Mapping[float, str] | None = None,
) -> timeseries.Panel:
    """Values over time; `levels` are drawn as dashed lines."""
    legend = common.VizLegendOptions().display_mode(common_models.LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .min(0)
        .height(8)
        .span(span)
        .line_width(1.5)
        .fill_opacity(25 if stacked else 8)
        .show_points(common_models.VisibilityMode.NEVER)
        .legend(legend.placement(common_models.LegendPlacement.BOTTOM).show_legend(True))
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A"))
    if levels:
        style = common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
        panel.thresholds(_levels(levels)).thresholds_style(style)
    for letter, (name, expression) in zip("ABCDEF", series.items(), strict=False):
        panel.with_target(_query(letter, expression, name).range())
    return panel


def listing(title: str, description: str, expression: str, columns: Mapping[str, str]) -> table.Panel:
    """A row for each series, with these labels as columns."""
    organize = {
        "excludeByName": {"Time": True, "Value": True},
        "includeByName": dict.fromkeys(columns, True),
        "indexByName": {label: place for place, label in enumerate(columns)},
        "renameByName": dict(columns),
    }
    return (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit("short")
        .height(8)
        .span(12)
        .with_target(_query("A", expression, "").instant().format(queries.PromQueryFormat.TABLE))
        .with_transformation(models.DataTransformerConfig(id_val="organize", options=organize))
    )


def _query(letter: str, expression: str, legend: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(letter).expr(expression).legend_format(legend or "__auto")


def _levels(levels: Mapping[float, str]) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(color=BLUE if not levels else GREEN, value=None)]
    steps += [models.Threshold(color=color, value=value) for value, color in levels.items() if value]
    if 0 in levels:
        steps[0] = models.Threshold(color=levels[0], value=None)
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
