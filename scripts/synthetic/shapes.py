"""The sizes of known models, and of tiny ones for tests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from server.mmproj.layout import TowerShape


@dataclass(slots=True, frozen=True)
class LlmShape:
    """A decoder of llama.cpp's architecture ``llama``."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    context: int
    rope_base: float = 10000.0

    @property
    def n_params(self) -> int:
        """How many weights it has."""
        head = self.width // self.heads
        attention = 2 * self.width * (self.width + head * self.kv_heads)
        block = attention + 3 * self.width * self.feed_forward + 2 * self.width
        return self.layers * block + 2 * self.vocabulary * self.width + self.width


@dataclass(slots=True, frozen=True)
class ModelShape:
    """A language model and its tower; ``pools`` gives it MobileVLM-V2's projector (ldpv2)."""

    llm: LlmShape
    tower: TowerShape
    pools: bool = False

    def with_layers(self, layers: int | None, tower_layers: int | None) -> ModelShape:
        """The same with fewer layers, to be cheap and otherwise true to size."""
        return replace(
            self,
            llm=replace(self.llm, layers=layers or self.llm.layers),
            tower=replace(self.tower, layers=tower_layers or self.tower.layers),
        )


# Converters store one layer less than CLIP has: 23 of ViT-L's 24, 11 of ViT-B's 12.
_CLIP_L = TowerShape(336, 14, 1024, 16, 4096, 23, 4096, 4096)
_CLIP_B = TowerShape(224, 16, 768, 12, 3072, 11, 768, 768)
_SIGLIP = TowerShape(384, 14, 1152, 16, 4304, 26, 2048, 2048, class_token=False, epsilon=1e-6)
_TINY = TowerShape(56, 14, 32, 2, 64, 3, 32, 64)
_TINY_LLM = LlmShape(64, 2, 4, 2, 128, 512, 2048)
_ANYRES = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_VICUNA_7B = LlmShape(4096, 32, 32, 32, 11008, 32064, 4096)
_VICUNA_13B = LlmShape(5120, 40, 40, 40, 13824, 32064, 4096)
_MISTRAL_7B = LlmShape(4096, 32, 32, 8, 14336, 32064, 32768, 1e6)
_TINYLLAMA = LlmShape(2048, 22, 32, 4, 5632, 32000, 2048)
_MOBILELLAMA = LlmShape(2048, 24, 16, 16, 5632, 32000, 2048)

# tests: the tower of "tiny-336" has the grid of LLaVA-1.5's, that of "tiny-pools" is pooled.
PRESETS = {
    "llava-1.5-7b": ModelShape(_VICUNA_7B, _CLIP_L),
    "llava-1.5-13b": ModelShape(_VICUNA_13B, replace(_CLIP_L, hidden=5120, n_out=5120)),
    "llava-1.6-mistral-7b": ModelShape(_MISTRAL_7B, replace(_CLIP_L, pinpoints=_ANYRES)),
    "tinyllava-1.1b": ModelShape(_TINYLLAMA, _SIGLIP),
    "mobilevlm-v2-1.7b": ModelShape(
        _MOBILELLAMA, replace(_CLIP_L, hidden=2048, n_out=2048), pools=True
    ),
    "tiny": ModelShape(_TINY_LLM, _TINY),
    "tiny-siglip": ModelShape(_TINY_LLM, replace(_TINY, class_token=False)),
    "tiny-pinpoints": ModelShape(_TINY_LLM, replace(_TINY, pinpoints=((56, 112), (112, 112)))),
    "tiny-336": ModelShape(_TINY_LLM, replace(_TINY, image_size=336)),
    "tiny-pools": ModelShape(_TINY_LLM, replace(_TINY, image_size=336, hidden=64), pools=True),
}


def clip_l(n_out: int) -> TowerShape:
    """CLIP ViT-L/14 at 336 px, LLaVA's tower, projecting to a language model of any width."""
    return replace(_CLIP_L, hidden=n_out, n_out=n_out)


def clip_b(n_out: int) -> TowerShape:
    """CLIP ViT-B/16 at 224 px, projecting to a language model of any width."""
    return replace(_CLIP_B, hidden=n_out, n_out=n_out)
