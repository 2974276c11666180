"""Pictures: what they are, what they cost, and what the cache saves."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from scripts.dashboards.parts import (
    HALF,
    board,
    heat,
    mean,
    number,
    of,
    quantile,
    quantiles,
    rate,
    row,
    series,
)

_STAGES = ("fetch", "decode", "resize", "encode")


def pictures() -> Dashboard:
    """The page on pictures."""
    made = board("llava-pictures", "llava-server / Pictures", "What pictures are and cost")
    for add in (_now, _what, _cost, _cache):
        made = add(made)
    return made


def _now(made: Dashboard) -> Dashboard:
    share = f"{rate('llava_image_tokens_total')} / ({rate('llava_prompt_tokens_total')} > 0)"
    encoder = f"max by (backend, projector) ({of('llava_image_encoder_info')})"
    return (
        made.with_row(row("Now"))
        .with_panel(number("Pictures", "In prompts", "reqps", rate("llava_images_total")))
        .with_panel(number("Tokens a picture", "Mean", "none", mean("llava_image_prompt_tokens")))
        .with_panel(number("Share of prompts", "Tokens of pictures", "percentunit", share))
        .with_panel(
            number(
                "Encode",
                "Median of those encoded",
                "s",
                quantile(0.5, "llava_image_encode_seconds", result="ok"),
            )
        )
        .with_panel(
            number("Cache", "Embeddings kept", "bytes", f"sum({of('llava_mm_cache_bytes')})")
        )
        .with_panel(number("Encoders", "Vision towers, by backend", "none", encoder))
    )


def _what(made: Dashboard) -> Dashboard:
    return (
        made.with_row(row("What they are"))
        .with_panel(heat("Pixels", "Of pictures as they came", "llava_image_source_pixels"))
        .with_panel(heat("Tokens", "That pictures take in prompts", "llava_image_prompt_tokens"))
        .with_panel(
            series(
                "Pictures a request, squares a picture",
                "Squares: how often the tower runs for one picture, the overview counted",
                "none",
                (mean("llava_request_images"), "pictures a request"),
                (mean("llava_image_tiles"), "squares a picture"),
                (quantile(0.95, "llava_image_tiles"), "squares a picture, p95"),
            )
        )
        .with_panel(
            series(
                "Megapixels",
                "As they came, and as the tower saw them",
                "none",
                (f"{mean('llava_image_source_pixels')} / 1e6", "source"),
                (f"{mean('llava_image_encoded_pixels')} / 1e6", "encoded"),
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Prompt tokens",
                "Those of pictures, and of text",
                "tps",
                (rate("llava_image_tokens_total"), "pictures"),
                (
                    f"{rate('llava_prompt_tokens_total')} - {rate('llava_image_tokens_total')}",
                    "text",
                ),
                stacked=True,
                width=HALF,
            )
        )
    )


def _cost(made: Dashboard) -> Dashboard:
    busy = [(rate(f"llava_image_{stage}_seconds_sum"), stage) for stage in _STAGES]
    typical, worst = (
        [(quantile(q, f"llava_image_{stage}_seconds", result="ok"), stage) for stage in _STAGES]
        for q in (0.5, 0.95)
    )
    failed = [
        (rate(f"llava_image_{stage}_seconds_count", result="failed"), stage) for stage in _STAGES
    ]
    return (
        made.with_row(row("What they cost"))
        .with_panel(series("Stages, median", "Each picture's time in each stage", "s", *typical))
        .with_panel(series("Stages, p95", "Each picture's time in each stage", "s", *worst))
        .with_panel(
            series(
                "Seconds a second",
                "How many pictures are in each stage on average",
                "none",
                *busy,
                stacked=True,
            )
        )
        .with_panel(
            series("Failed", "Pictures that a stage could not do", "reqps", *failed, width=HALF)
        )
        .with_panel(
            series(
                "Encode",
                "Vision tower alone, pictures that were not cached",
                "s",
                *quantiles("llava_image_encode_seconds", result="ok"),
                width=HALF,
            )
        )
    )


def _cache(made: Dashboard) -> Dashboard:
    hits, asked = rate("llava_mm_cache_hits_total"), rate("llava_mm_cache_queries_total")
    return (
        made.with_row(row("Cache"))
        .with_panel(
            series(
                "Encodes by result",
                "cached: the embeddings, or all of the picture's KV cells, were still there",
                "reqps",
                (rate("llava_image_encode_seconds_count", "result"), "{{result}}"),
                stacked=True,
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Hits",
                "Of pictures that were looked up before an encode",
                "percentunit",
                (f"{hits} / ({asked} > 0)", "hits"),
                top=1,
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Decodes by result",
                "cached: the picture was kept as the tower sees it, or another request was at it",
                "reqps",
                (rate("llava_image_decode_seconds_count", "result"), "{{result}}"),
                stacked=True,
                width=HALF,
            )
        )
        .with_panel(
            series(
                "Bytes kept",
                "Embeddings (--image-cache-bytes), and decoded pictures (--image-prepared-bytes)",
                "bytes",
                (f"sum({of('llava_mm_cache_bytes')})", "embeddings"),
                (f"sum({of('llava_image_prepared_bytes')})", "decoded"),
                width=HALF,
            )
        )
    )
