"""Language models of the architectures that go with pictures, as llama.cpp loads them."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.synthetic.shapes import LlmShape

Shapes = dict[str, tuple[int, ...]]
Keys = dict[str, int | float | list[int]]


@dataclass(slots=True, frozen=True)
class Language:
    """A decoder of one of llama.cpp's architectures.

    ``window`` is Gemma's sliding window in tokens, 0 for none; ``deepstack`` how many further
    embeddings each of Qwen3-VL's pictures brings for the first layers.
    """

    architecture: str
    shape: LlmShape
    window: int = 0
    deepstack: int = 0

    @property
    def head_size(self) -> int:
        """The width of a head."""
        return self.shape.width // self.shape.heads

    @property
    def keys(self) -> Keys:
        """The architecture's own keys, without its name in front."""
        keys: Keys = {"rope.dimension_count": self.head_size}
        if self.architecture == "gemma3":
            keys |= {"attention.key_length": self.head_size}
            keys |= {"attention.value_length": self.head_size}
            if self.window:
                keys["attention.sliding_window"] = self.window
        if self.architecture.startswith("qwen"):
            # M-RoPE: pairs of a head that turn with time, height and width, and none with a fourth.
            half = self.head_size // 2
            height = half * 3 // 8
            keys["rope.dimension_sections"] = [half - 2 * height, height, height, 0]
        if self.deepstack:
            keys["n_deepstack_layers"] = self.deepstack
        return keys

    @property
    def tensors(self) -> Shapes:
        """Every tensor with its shape in NumPy's order (slowest first)."""
        shape = self.shape
        shapes: Shapes = {"token_embd.weight": (shape.vocabulary, shape.width)}
        for layer in range(shape.layers):
            block = self._block()
            shapes |= {f"blk.{layer}.{name}": size for name, size in block.items()}
        head = {"output_norm.weight": (shape.width,)}
        return shapes | head | {"output.weight": (shape.vocabulary, shape.width)}

    def _block(self) -> Shapes:
        d, ff, kv = self.shape.width, self.shape.feed_forward, self.head_size * self.shape.kv_heads
        block: Shapes = {
            "attn_norm.weight": (d,),
            "attn_q.weight": (d, d),
            "attn_k.weight": (kv, d),
            "attn_v.weight": (kv, d),
            "attn_output.weight": (d, d),
            "ffn_norm.weight": (d,),
            "ffn_gate.weight": (ff, d),
            "ffn_up.weight": (ff, d),
            "ffn_down.weight": (d, ff),
        }
        if self.architecture == "gemma3":
            block |= {"post_attention_norm.weight": (d,), "post_ffw_norm.weight": (d,)}
        if self.architecture in {"gemma3", "qwen3vl"}:
            block |= {f"attn_{name}_norm.weight": (self.head_size,) for name in "qk"}
        if self.architecture == "qwen2vl":
            block |= {"attn_q.bias": (d,), "attn_k.bias": (kv,), "attn_v.bias": (kv,)}
        return block
