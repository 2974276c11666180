"""Settings of pictures and language models that a tower does not suit."""

from __future__ import annotations

from typing import Final

from server.errors import ConfigError, StartupError
from server.messages import EngineConfig
from server.mmproj.facts import TowerFacts


def check_picture_settings(config: EngineConfig, tower: TowerFacts | None) -> None:
    """Refuses what was set and cannot have an effect. --image-size is checked by towers.prepare.

    Raises:
        ConfigError: names the flag, and what to use in its place.
    """
    if tower is None:
        for flag, value in _settings(config).items():
            if value is not None:
                raise ConfigError(f"{flag}: no vision tower is loaded (--mmproj); leave it out")
        return
    low, high = config.image_min_tokens, config.image_max_tokens
    for flag, value in (("--image-min-tokens", low), ("--image-max-tokens", high)):
        if value is not None and not tower.dynamic:
            raise ConfigError(f"{flag}: {_why_not(tower)}")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"--image-min-tokens {low} is more than --image-max-tokens {high}")
    if config.image_max_edge is not None and tower.fixed:
        raise ConfigError(f"--image-max-edge: {_why_not(tower)}")


def _settings(config: EngineConfig) -> dict[str, int | None]:
    return {
        "--image-size": config.image_size,
        "--image-max-edge": config.image_max_edge,
        "--image-min-tokens": config.image_min_tokens,
        "--image-max-tokens": config.image_max_tokens,
    }


def _why_not(tower: TowerFacts) -> str:
    if tower.fixed:
        return (
            f"this tower sees every picture as one square of {tower.image_size} px;"
            " leave it out (--image-size changes the square)"
        )
    if tower.tiled:
        return (
            f"this tower sees a picture as squares of {tower.image_size} px; leave it out"
            " (--image-size changes the squares, --image-max-edge how many there are)"
        )
    return f"llama.cpp takes no such bound for projector {tower.projector_type!r}; leave it out"


_UNSERVED: Final = {
    "deepseek4v": "how many tokens a picture has there depends on where in the prompt it stands",
}


def check_pair(mmproj: str, facts: TowerFacts, model: str, n_embd: int) -> None:
    """Refuses a tower that is not served, or that does not belong to the language model.

    ``mmproj`` and ``model`` are the names of the files; ``n_embd`` is the model's width.

    Raises:
        StartupError: says why.
    """
    if facts.projector_type in _UNSERVED:
        raise StartupError(
            f"{mmproj}: projector {facts.projector_type!r} is not served:"
            f" {_UNSERVED[facts.projector_type]}"
        )
    if facts.n_out and facts.n_out != n_embd:
        raise StartupError(
            f"{mmproj} does not belong to {model}: it projects pictures to {facts.n_out}"
            f" dimensions, the language model has {n_embd}"
        )
