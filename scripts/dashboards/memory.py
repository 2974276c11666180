"""Memory: parts against devices, predicted against measured."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from scripts.dashboards.parts import HALF, bars, board, number, of, row, series

# Parts that are bounds: planned full, measured as they are.
CACHES = "image_cache|prompt_cache"


def memory() -> Dashboard:
    """The page on where the memory went, and whether it grows."""
    made = board("llava-memory", "llava-server / Memory", "Where the memory is")
    for add in (_now, _parts, _devices, _gpus, _processes):
        made = add(made)
    return made


def _parts_sum(kind: str, by: str) -> str:
    return f"sum by ({by}) ({of('llava_memory_bytes', kind=kind)})"


def _device(kind: str) -> str:
    return f"sum by (device) ({of('llava_device_memory_bytes', kind=kind)})"


def _now(made: Dashboard) -> Dashboard:
    measured = f"sum({of('llava_memory_bytes', kind='measured')})"
    predicted = f"sum({of('llava_memory_bytes', kind='predicted')})"
    # The caches are planned as bounds and fill up later: an empty one was not predicted badly.
    off = " / ".join(
        f"sum({of('llava_memory_bytes', kind=kind, part='!~' + CACHES)})"
        for kind in ("predicted", "measured")
    )
    offloaded = of("llava_model_layers", kind="offloaded")
    cells = f"sum({of('llava_kv_cache_cells', kind='used')})"
    return (
        made.with_row(row("Now"))
        .with_panel(number("Measured", "All parts together", "bytes", measured))
        .with_panel(
            number(
                "Predicted",
                "Before the model was loaded, with caches that are full",
                "bytes",
                predicted,
            )
        )
        .with_panel(
            number(
                "Off by",
                "Predicted against measured, without the caches, which fill up later",
                "percentunit",
                f"{off} - 1",
                colours=((None, "red"), (-0.1, "green"), (0.1, "red")),
            )
        )
        .with_panel(
            number(
                "Least free",
                "Of all devices",
                "percentunit",
                f"min({_device('free')} / {_device('total')})",
                colours=((None, "red"), (0.01, "yellow"), (0.02, "green")),
            )
        )
        .with_panel(number("Offloaded", "Layers on a GPU", "none", f"sum({offloaded})"))
        .with_panel(number("Cells", "Of the KV cache, in use", "none", cells))
    )


def _parts(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Parts"))
        .with_panel(
            bars(
                "Predicted and measured, by part",
                "Caches are planned as bounds and fill up later. Any other part that is off by "
                "more than a tenth is a fault of ours: please report it",
                "bytes",
                (_parts_sum("predicted", "part"), "{{part}}, predicted"),
                (_parts_sum("measured", "part"), "{{part}}, measured"),
            )
        )
        .with_panel(
            series(
                "Parts on their devices",
                "As measured",
                "bytes",
                (_parts_sum("measured", "part, device"), "{{part}} on {{device}}"),
                stacked=True,
                width=HALF,
            )
        )
    )


def _devices(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("Devices"))
        .with_panel(
            series(
                "Free",
                "What the device still has, whoever took the rest",
                "bytes",
                (_device("free"), "{{device}}"),
                (_device("total"), "{{device}}, all"),
            )
        )
        .with_panel(
            series(
                "Used by the engine",
                "Of each device",
                "bytes",
                (_device("used"), "{{device}}"),
                stacked=True,
            )
        )
        .with_panel(
            series(
                "Caches",
                "Cells of the KV cache in use; embeddings of pictures kept",
                "percentunit",
                (f"max({of('llava_kv_cache_usage_perc')})", "KV cache in use"),
                top=1,
            )
        )
    )


def _gpus(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("GPUs (NVML)"))
        .with_panel(
            series(
                "Load",
                "How busy each GPU is; empty without NVML (the extra nvml)",
                "percentunit",
                (of("llava_device_utilization_ratio"), "{{device}} {{instance}}"),
                top=1,
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Temperature",
                "Of each GPU; most slow themselves down at 85 to 95 degrees",
                "celsius",
                (of("llava_device_temperature_celsius"), "{{device}} {{instance}}"),
                width=HALF,
            )
        )
    )


def _processes(made: Dashboard) -> Dashboard:
    anonymous = of("llava_ram_bytes", kind="anonymous")
    mapped = of("llava_ram_bytes", kind="mapped")
    return (
        made.with_row(row("Processes"))
        .with_panel(
            series(
                "Anonymous memory",
                "What a process allocated itself, swapped or not: a leak shows here first",
                "bytes",
                (f"sum by (process, instance) ({anonymous})", "{{process}} {{instance}}"),
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Mapped files",
                "Weights that are mapped from the model's file, and libraries",
                "bytes",
                (f"sum by (process, instance) ({mapped})", "{{process}} {{instance}}"),
                width=HALF,
            )
        )
    )
