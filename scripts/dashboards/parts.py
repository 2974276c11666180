"""What the dashboards are built of: panels, queries, variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders.bargauge import Panel as BarGauge
from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueTextMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Grafana's grid is 24 wide.
THIRD, HALF, SMALL, EIGHTH = 8, 12, 4, 3
# Colours of a number that should be 0.
GOOD_AT_0: Final = ((None, "green"), (0.5, "red"))
# What clients ask for; probes and scrapes would hide a failing server.
ASKED: Final = "!~/health.*|/metrics"
TAG: Final = "llava-server"
Query = tuple[str, str]


def of(name: str, **labels: str) -> str:
    """A selector of the chosen models' and servers' series.

    Values may begin with an operator, ~ or !~.
    """
    chosen = {"model_name": "~$model", "instance": "~$instance", **labels}
    return f"{name}{{{','.join(_matcher(*pair) for pair in chosen.items())}}}"


def _matcher(label: str, value: str) -> str:
    for sign, operator in (("!~", "!~"), ("~", "=~")):
        if value.startswith(sign):
            return f'{label}{operator}"{value.removeprefix(sign)}"'
    return f'{label}="{value}"'


# Lines across every panel: an engine or a server that was started again.
MARKS: Final = (
    ("Engine restarts", f"increase({of('llava_engine_restarts_total')}[1m]) > 0", "orange"),
    (
        "Server starts",
        "changes(process_start_time_seconds[1m]) > 0"
        f" and on (instance, job) {of('llava_engine_up')}",
        "red",
    ),
)


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


def number(
    title: str,
    text: str,
    unit: str,
    expr: str,
    width: int = SMALL,
    *,
    colours: Sequence[tuple[float | None, str]] = (),
) -> Stat:
    """One number, the last one; ``colours``: from which value on which, None for the first."""
    panel = Stat().title(title).description(text).unit(unit).datasource(SOURCE)
    panel = panel.span(width).height(4).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    if colours:
        steps = [Threshold(value, colour) for value, colour in colours]
        panel = panel.color_mode(BigValueColorMode.BACKGROUND)
        panel = panel.thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return panel.with_target(_target((expr, ""), 0))


def label(title: str, text: str, query: Query, width: int = SMALL) -> Stat:
    """The legend of a query whose value says nothing."""
    panel = number(title, text, "none", "", width).targets([])
    return panel.text_mode(BigValueTextMode.NAME).with_target(_target(query, 0))


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
    """An empty dashboard: choices of data source, model and server, and links to the others."""
    source = DatasourceVariable("datasource").label("Data source").type("prometheus")
    made = Dashboard(title).uid(uid).description(text).tags([TAG]).editable()
    made = made.refresh("10s").time("now-1h", "now").timezone("browser")
    made = made.link(
        DashboardLink("llava-server")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    made = made.with_variable(source)
    made = made.with_variable(_choice("model", "Model", "llava_engine_up", "model_name"))
    servers = 'llava_engine_up{model_name=~"$model"}'
    made = made.with_variable(_choice("instance", "Server", servers, "instance"))
    for name, expr, colour in MARKS:
        made = made.annotation(
            AnnotationQuery()
            .name(name)
            .datasource(SOURCE)
            .expr(expr)
            .icon_color(colour)
            .enable(True)
        )
    return made


def _choice(name: str, title: str, series: str, label_name: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(title)
        .datasource(SOURCE)
        .query(f"label_values({series}, {label_name})")
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )
