"""What the dashboards are built of: panels, queries, variables."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.bargauge import Panel as BarGauge
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
)
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableOption
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Grafana's grid is 24 wide.
THIRD, HALF, SMALL = 8, 12, 4
# What clients ask for; probes and scrapes would hide a failing server.
ASKED: Final = "!~/health.*|/metrics"
Query = tuple[str, str]


def of(name: str, **labels: str) -> str:
    """A selector of the chosen model's series; values may begin with an operator, ~ or !~."""
    chosen = {"model_name": "~$model", **labels}
    return f"{name}{{{','.join(_matcher(*pair) for pair in chosen.items())}}}"


def _matcher(label: str, value: str) -> str:
    for sign, operator in (("!~", "!~"), ("~", "=~")):
        if value.startswith(sign):
            return f'{label}{operator}"{value.removeprefix(sign)}"'
    return f'{label}="{value}"'


def rate(name: str, by: str = "", **labels: str) -> str:
    """A counter's sum a second, by a label or all together."""
    grouped = f"sum by ({by})" if by else "sum"
    return f"{grouped} (rate({of(name, **labels)}[$__rate_interval]))"


def increase(name: str) -> str:
    """How much a counter grew, for what happens seldom."""
    return f"sum (increase({of(name)}[$__rate_interval]))"


def quantile(q: float, name: str, by: str = "", **labels: str) -> str:
    """A histogram's quantile."""
    groups = "le" if not by else f"le, {by}"
    buckets = rate(f"{name}_bucket", groups, **labels)
    return f"histogram_quantile({q}, {buckets})"


def mean(name: str, by: str = "", **labels: str) -> str:
    """A histogram's mean; nothing where there was none in the time."""
    total, count = rate(f"{name}_sum", by, **labels), rate(f"{name}_count", by, **labels)
    return f"{total} / ({count} > 0)"


def quantiles(name: str, **labels: str) -> list[Query]:
    """The three that are looked at."""
    return [(quantile(q, name, **labels), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)]


def _target(query: Query, number: int) -> Dataquery:
    expr, legend = query
    target = Dataquery().datasource(SOURCE).expr(expr).legend_format(legend)
    return target.ref_id(chr(ord("A") + number)).range()


def series(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    width: int = THIRD,
    stacked: bool = False,
    top: float | None = None,
) -> TimeSeries:
    """Lines over time; ``stacked`` where they are parts of a whole."""
    panel = TimeSeries().title(title).description(text).unit(unit).datasource(SOURCE).min(0)
    panel = panel.span(width).height(8).line_width(1).fill_opacity(25 if stacked else 8)
    panel = panel.tooltip(
        VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    ).legend(
        VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
    if stacked:
        panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if top is not None:
        panel = panel.max(top)
    for number, query in enumerate(queries):
        panel = panel.with_target(_target(query, number))
    return panel


def number(title: str, text: str, unit: str, expr: str, width: int = SMALL) -> Stat:
    """One number, the last one."""
    panel = Stat().title(title).description(text).unit(unit).datasource(SOURCE)
    panel = panel.span(width).height(4).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(_target((expr, ""), 0))


def bars(title: str, text: str, unit: str, *queries: Query, width: int = HALF) -> BarGauge:
    """The last values side by side."""
    panel = BarGauge().title(title).description(text).unit(unit).datasource(SOURCE).min(0)
    panel = panel.span(width).height(8).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    for place, query in enumerate(queries):
        panel = panel.with_target(_target(query, place))
    return panel


def heat(title: str, text: str, name: str, unit: str = "none", width: int = THIRD) -> Heatmap:
    """A histogram's buckets over time."""
    panel = Heatmap().title(title).description(text).datasource(SOURCE).span(width).height(8)
    buckets = rate(f"{name}_bucket", "le")
    query = _target((buckets, "{{le}}"), 0).format(PromQueryFormat.HEATMAP)
    return panel.unit(unit).calculate(False).with_target(query)


def row(title: str) -> Row:
    """A heading."""
    return Row(title)


def board(uid: str, title: str, text: str) -> Dashboard:
    """An empty dashboard with the choice of data source and model."""
    source = DatasourceVariable("datasource").label("Data source").type("prometheus")
    model = (
        QueryVariable("model")
        .label("Model")
        .datasource(SOURCE)
        .query("label_values(llava_engine_up, model_name)")
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )
    made = Dashboard(title).uid(uid).description(text).tags(["llava-server"]).editable()
    made = made.refresh("10s").time("now-1h", "now").timezone("browser")
    return made.with_variable(source).with_variable(model)
