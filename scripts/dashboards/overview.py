"""Overview: traffic, latency, tokens, errors, saturation."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.builders.stat import Panel as Stat

from scripts.dashboards.parts import (
    ASKED,
    EIGHTH,
    GOOD_AT_0,
    HALF,
    board,
    increase,
    label,
    number,
    of,
    quantiles,
    rate,
    row,
    series,
)


def overview() -> Dashboard:
    """The page that an operator looks at first."""
    made = board("llava-overview", "llava-server / Overview", "Is it well, and who waits?")
    for add in (_now, _traffic, _latency, _saturation, _engine, _errors):
        made = add(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    made = made.with_row(row("Now"))
    for panel in (*_work(), *_health()):
        made = made.with_panel(panel)
    return made


def _work() -> list[Stat]:
    up = of("llava_engine_up")
    down = f"count({up}) - sum({up})"
    running, waiting = of("llava_num_requests_running"), of("llava_num_requests_waiting")
    busy = ((None, "green"), (1, "yellow"), (16, "red"))
    text = "Models that do not serve now: loading, restarting, failed"
    tokens = rate("llava_generation_tokens_total")
    return [
        number("Engines down", text, "none", down, EIGHTH, colours=GOOD_AT_0),
        number("Running", "Requests in the batch", "none", f"sum({running})", EIGHTH),
        number(
            "Waiting",
            "Requests that have no slot yet",
            "none",
            f"sum({waiting})",
            EIGHTH,
            colours=busy,
        ),
        number(
            "Requests", "Generations ended", "reqps", rate("llava_request_success_total"), EIGHTH
        ),
        number("Tokens", "Generated", "tps", tokens, EIGHTH),
    ]


def _health() -> list[Stat]:
    failed = f"({rate('llava_requests_failed_total', status='~5..')} or vector(0))"
    answered = rate("llava_http_requests_total", route=ASKED)
    # No traffic is no error: without the second part the panel would show NaN.
    errors = f"({failed} / ({answered} > 0)) or vector(0)"
    rare = ((None, "green"), (0.01, "yellow"), (0.05, "red"))
    restarts = f"sum(increase({of('llava_engine_restarts_total')}[$__range]))"
    text = "Engines started again in the time shown"
    version = f"max by (version, llama_cpp_python, backends) ({of('llava_build_info')})"
    return [
        number("Errors", "Share answered 5xx", "percentunit", errors, EIGHTH, colours=rare),
        number("Restarts", text, "none", restarts, EIGHTH, colours=GOOD_AT_0),
        label(
            "Version",
            "Of llava-server, with llama-cpp-python's and the backends",
            (version, "{{version}} / {{llama_cpp_python}} {{backends}}"),
            EIGHTH,
        ),
    ]


def _traffic(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Traffic"))
        .with_panel(
            series(
                "Generations by their end",
                "stop: the model was done; length: a limit; abort: the client left",
                "reqps",
                (rate("llava_request_success_total", "finished_reason"), "{{finished_reason}}"),
                stacked=True,
            )
        )
        .with_panel(
            series(
                "HTTP by route and status",
                "All requests, those that generate nothing too",
                "reqps",
                (rate("llava_http_requests_total", "route, status"), "{{route}} {{status}}"),
                stacked=True,
            )
        )
        .with_panel(
            series(
                "Tokens",
                "Of prompts, those of pictures and those that were cached among them; generated",
                "tps",
                (rate("llava_prompt_tokens_total"), "prompt"),
                (rate("llava_image_tokens_total"), "of pictures"),
                (rate("llava_prefix_cache_hits_total"), "cached"),
                (rate("llava_generation_tokens_total"), "generated"),
            )
        )
    )


def _latency(made: Dashboard) -> Dashboard:
    stages = [
        (rate(f"llava_request_{stage}_time_seconds_sum"), stage)
        for stage in ("queue", "prefill", "decode")
    ]
    return (
        made.with_row(row("Latency"))
        .with_panel(
            series(
                "Time to first token",
                "From a request's arrival, its pictures' decoding included",
                "s",
                *quantiles("llava_time_to_first_token_seconds"),
            )
        )
        .with_panel(
            series(
                "Between two tokens",
                "As the web process sees them",
                "s",
                *quantiles("llava_inter_token_latency_seconds"),
            )
        )
        .with_panel(
            series(
                "End to end",
                "From a request's arrival to its end",
                "s",
                *quantiles("llava_e2e_request_latency_seconds"),
            )
        )
        .with_panel(
            series(
                "Where requests spend their time",
                "Seconds of requests a second: how many are in each stage on average",
                "none",
                *stages,
                stacked=True,
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Queue",
                "Waiting for a slot",
                "s",
                *quantiles("llava_request_queue_time_seconds"),
                width=HALF,
            )
        )
    )


def _saturation(made: Dashboard) -> Dashboard:
    parts = [
        (rate("llava_engine_step_seconds_sum", part=part), text)
        for part, text in (("llama", "llama.cpp"), ("own", "our own code"))
    ]
    hits, asked = rate("llava_prefix_cache_hits_total"), rate("llava_prefix_cache_queries_total")
    return (
        made.with_row(row("Saturation"))
        .with_panel(
            series(
                "Requests",
                "In the batch, and in the queue",
                "none",
                (f"sum({of('llava_num_requests_running')})", "running"),
                (f"sum({of('llava_num_requests_waiting')})", "waiting"),
            )
        )
        .with_panel(
            series(
                "The engine's time",
                "Share of a second in which it computes; 1 is all of it",
                "percentunit",
                *parts,
                stacked=True,
            )
        )
        .with_panel(
            series(
                "Cells and prefixes",
                "KV cache in use, and the share of prompt tokens that it already had",
                "percentunit",
                (f"max({of('llava_kv_cache_usage_perc')})", "KV cache in use"),
                (f"{hits} / ({asked} > 0)", "prompt tokens cached"),
                top=1,
            )
        )
    )


def _engine(made: Dashboard) -> Dashboard:
    """More of the row of saturation: what the engine's processes go through."""
    return (
        made.with_panel(
            series(
                "Steps",
                "How long the engine's steps take in llama.cpp",
                "s",
                *quantiles("llava_engine_step_seconds", part="llama"),
            )
        )
        .with_panel(
            series(
                "Preemptions and restarts",
                "Requests put back for want of cells; engines started again",
                "none",
                (increase("llava_num_preemptions_total"), "preempted"),
                (increase("llava_engine_restarts_total"), "restarts"),
            )
        )
        .with_panel(
            series(
                "Processors",
                "Cores that each process keeps busy",
                "none",
                (_cores("process_cpu_seconds_total"), "web {{instance}}"),
                (_cores("llava_engine_process_cpu_seconds_total"), "engine {{instance}}"),
            )
        )
    )


def _cores(name: str) -> str:
    # Every process has the first of these, so only those of our servers are taken.
    return f"rate({name}[$__rate_interval]) and on (instance, job) {of('llava_engine_up')}"


def _errors(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Errors"))
        .with_panel(
            series(
                "Errors by code",
                "Everything that was answered with an error",
                "reqps",
                (rate("llava_requests_failed_total", "status, code"), "{{status}} {{code}}"),
                width=HALF,
                stacked=True,
            )
        )
        .with_panel(
            series(
                "Turned away",
                "Requests refused: full queue, limits, keys, an engine that is not there",
                "reqps",
                (rate("llava_requests_refused_total", "reason"), "{{reason}}"),
                width=HALF,
                stacked=True,
            )
        )
    )
