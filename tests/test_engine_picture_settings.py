"""Settings of pictures against towers: what would do nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.synthetic.tiny import write_tiny
from server.engine.loading.load import load
from server.errors import ConfigError, StartupError
from server.messages import EngineConfig
from server.mmproj.checks import check_picture_settings
from server.mmproj.facts import TowerFacts


def config(**settings: int) -> EngineConfig:
    return EngineConfig(Path("m"), None, Path("c"), 0, 1, 1, **settings)


def tower(projector: str = "mlp", pinpoints: tuple[tuple[int, int], ...] = ()) -> TowerFacts:
    return TowerFacts(
        name="tower",
        projector_type=projector,
        image_size=336,
        patch_size=14,
        n_embd=32,
        n_layer=3,
        n_head=2,
        n_ff=64,
        n_out=64,
        has_class_token=True,
        has_post_norm=False,
        has_position_table=True,
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        activation="gelu",
        pinpoints=pinpoints,
        feature_layers=(),
        n_params=1,
        n_bytes=4,
    )


FIXED, TILED = tower(), tower(pinpoints=((336, 672),))
DYNAMIC, OTHER = tower("pixtral"), tower("gemma3")


@pytest.mark.parametrize("loaded", [None, FIXED, TILED, DYNAMIC, OTHER])
def test_nothing_set_suits_every_tower(loaded: TowerFacts | None) -> None:
    check_picture_settings(config(), loaded)


@pytest.mark.parametrize("name", ["size", "max_edge", "min_tokens", "max_tokens"])
def test_without_a_tower_nothing_has_an_effect(name: str) -> None:
    flag = f"--image-{name.replace('_', '-')}: no vision tower"
    with pytest.raises(ConfigError, match=flag):
        check_picture_settings(config(**{f"image_{name}": 336}), None)


@pytest.mark.parametrize("name", ["min_tokens", "max_tokens"])
@pytest.mark.parametrize(
    ("loaded", "why"),
    [
        (FIXED, "one square of 336 px; .*--image-size"),
        (TILED, "squares of 336 px; .*--image-max-edge"),
        (OTHER, "projector 'gemma3'"),
    ],
)
def test_bounds_are_for_towers_of_any_size(name: str, loaded: TowerFacts, why: str) -> None:
    wanted = config(**{f"image_{name}": 100})
    with pytest.raises(ConfigError, match=f"--image-{name.replace('_', '-')}: .*{why}"):
        check_picture_settings(wanted, loaded)
    check_picture_settings(wanted, DYNAMIC)


def test_an_edge_is_for_all_but_fixed_towers() -> None:
    wanted = config(image_max_edge=1024)
    with pytest.raises(ConfigError, match=r"--image-max-edge: .*one square"):
        check_picture_settings(wanted, FIXED)
    for loaded in (TILED, DYNAMIC, OTHER):
        check_picture_settings(wanted, loaded)


def test_bounds_may_not_cross() -> None:
    check_picture_settings(config(image_min_tokens=64, image_max_tokens=64), DYNAMIC)
    with pytest.raises(ConfigError, match=r"--image-min-tokens 65 is more than .* 64"):
        check_picture_settings(config(image_min_tokens=65, image_max_tokens=64), DYNAMIC)


@pytest.mark.parametrize(
    ("kind", "bounds", "words"),
    [
        ("gemma4", {"image_max_tokens": 40}, "--image-max-tokens 40: .* at least 70 tokens"),
        ("qwen2vl", {"image_min_tokens": 5000}, "--image-min-tokens 5000: .* at most 4096 tokens"),
        ("idefics3", {"image_min_tokens": 64}, "--image-min-tokens 64: .*--image-max-tokens, too"),
    ],
)
def test_bounds_that_contradict_the_tower_s_own_are_named(
    kind: str, bounds: dict[str, int], words: str, tmp_path: Path
) -> None:
    path, mmproj = write_tiny(tmp_path, kind)
    settings = EngineConfig(path, mmproj, tmp_path / "cache", 512, 1, 1, **bounds)
    with pytest.raises(ConfigError, match=words) as caught:
        load(settings, lambda _progress: None, lambda _message: None)
    assert "CLIP" not in caught.value.message
    assert "\n" not in caught.value.message


def test_a_mismatch_names_the_file_that_was_given(tmp_path: Path) -> None:
    path, _ = write_tiny(tmp_path, "qwen2vl")
    _, mmproj = write_tiny(tmp_path, "llava-1.5")
    with pytest.raises(StartupError, match=rf"^{mmproj.name} .*{path.name}"):
        load(
            EngineConfig(path, mmproj, tmp_path / "cache", 512, 1, 1),
            lambda _progress: None,
            lambda _message: None,
        )
