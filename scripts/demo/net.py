"""The network: CLIP's tower, LLaVA's projector and a Llama decoder, as llama.cpp computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH = 14
GRID = 8  # patches along a side at the model's own resolution of 112 pixels
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
ROPE_BASE = 10000.0
EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of all parts. LLaVA drops the tower's last layer, so it is never built here."""

    vocabulary: int
    tower_width: int = 192
    tower_layers: int = 6
    tower_heads: int = 6
    tower_ff: int = 768
    width: int = 192
    layers: int = 5
    heads: int = 6
    ff: int = 512


class Attention(nn.Module):
    """Multi-head attention; CLIP's has biases, Llama's has none and turns q and k by position."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.k = nn.Linear(width, width, bias=bias)
        self.v = nn.Linear(width, width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, turn: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x: (batch, length, width); turn: rotary table; mask: True where attention may look."""
        batch, length, width = x.shape
        q, k, v = (
            part(x).view(batch, length, self.heads, -1).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        merged: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, width))
        return merged


class TowerBlock(nn.Module):
    """CLIP's layer: pre-norm attention and a quick-GELU feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.tower_width
        self.ln1 = nn.LayerNorm(width, EPSILON)
        self.attention = Attention(width, shape.tower_heads, bias=True)
        self.ln2 = nn.LayerNorm(width, EPSILON)
        self.up = nn.Linear(width, shape.tower_ff)
        self.down = nn.Linear(shape.tower_ff, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, patches + 1, width) to the same."""
        x = x + self.attention(self.ln1(x))
        hidden = self.up(self.ln2(x))
        return x + self.down(hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    """CLIP's vision transformer up to the features that LLaVA takes, and LLaVA's projector."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width = shape.tower_width
        self.patch = nn.Linear(3 * PATCH * PATCH, width, bias=False)
        self.class_row = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1 + GRID * GRID, width) * 0.02)
        self.pre = nn.LayerNorm(width, EPSILON)
        self.blocks = nn.ModuleList(TowerBlock(shape) for _ in range(shape.tower_layers))
        self.mm0 = nn.Linear(width, shape.width * 2)
        self.mm2 = nn.Linear(shape.width * 2, shape.width)

    def place_table(self, grid: int) -> Tensor:
        """The position table, resampled bicubically for another grid; the class row stays."""
        if grid == GRID:
            return self.positions
        table = self.positions[1:].view(1, GRID, GRID, -1).permute(0, 3, 1, 2)
        table = functional.interpolate(
            table, (grid, grid), mode="bicubic", align_corners=False, antialias=grid < GRID
        )
        return torch.cat([self.positions[:1], table.flatten(2)[0].T])

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (batch, side, side, 3); result: (batch, grid * grid, decoder width)."""
        batch, side = pixels.shape[:2]
        grid = side // PATCH
        mean, deviation = (torch.tensor(part) for part in (CLIP_MEAN, CLIP_STD))
        x = (pixels.float() / 255 - mean) / deviation
        x = x.view(batch, grid, PATCH, grid, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
        x = self.patch(x.reshape(batch, grid * grid, -1))
        x = torch.cat([self.class_row.expand(batch, 1, -1), x], 1) + self.place_table(grid)
        x = self.pre(x)
        for block in self.blocks:
            x = block(x)
        projected: Tensor = self.mm2(functional.gelu(self.mm0(x[:, 1:]), approximate="tanh"))
        return projected


class RmsNorm(nn.Module):
    """Llama's normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Any (..., width)."""
        x = x.float()
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * self.weight


class DecoderBlock(nn.Module):
    """Llama's layer: attention with rotary positions and a SwiGLU feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm1 = RmsNorm(shape.width)
        self.attention = Attention(shape.width, shape.heads, bias=False)
        self.norm2 = RmsNorm(shape.width)
        self.gate = nn.Linear(shape.width, shape.ff, bias=False)
        self.up = nn.Linear(shape.width, shape.ff, bias=False)
        self.down = nn.Linear(shape.ff, shape.width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, width) to the same."""
        x = x + self.attention(self.norm1(x), turn, mask)
        hidden = self.norm2(x)
        return x + self.down(functional.silu(self.gate(hidden)) * self.up(hidden))


class Decoder(nn.Module):
    """A Llama language model that takes embeddings, so that pictures can stand among words."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.head_width = shape.width // shape.heads
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(DecoderBlock(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.width)
        self.output = nn.Linear(shape.width, shape.vocabulary, bias=False)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """x: (b, n, width); positions: (b, n); mask: (b, 1, n, n). Hidden states before output."""
        turn = rotary_table(positions, self.head_width)
        for block in self.blocks:
            x = block(x, turn, mask)
        hidden: Tensor = self.norm(x)
        return hidden


def rotary_table(positions: Tensor, head_width: int) -> Tensor:
    """Turns of every position as complex numbers: (batch, 1, length, head_width / 2)."""
    powers = torch.arange(0, head_width, 2, dtype=torch.float32) / head_width
    angles = positions[..., None].float() * ROPE_BASE**-powers
    return torch.polar(torch.ones_like(angles), angles)[:, None]


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions on neighbouring pairs, the layout that GGUF's `llama` has."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def cosine_basis(width: int) -> Tensor:
    """Smooth patch filters to start from, (width, 3 * PATCH * PATCH): low frequencies first."""
    steps = (torch.arange(PATCH) + 0.5) * math.pi / PATCH
    waves = torch.stack([torch.cos(steps * k) for k in range(PATCH)])
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = sorted(((i, j) for i in range(PATCH) for j in range(PATCH)), key=lambda p: p[0] + p[1])
    planes = torch.stack([torch.outer(waves[i], waves[j]) for i, j in order])
    tints = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    tints = tints / tints.norm(dim=1, keepdim=True)
    grey = width * 2 // 3
    shares = (grey, (width - grey) // 2, width - grey - (width - grey) // 2)
    filters = [
        (tint[:, None, None] * planes[:share, None]).flatten(1)
        for tint, share in zip(tints, shares, strict=True)
    ]
    return torch.cat(filters)


def build(shape: Shape, seed: int = 0) -> tuple[Tower, Decoder]:
    """A tower and a decoder with fresh weights."""
    torch.manual_seed(seed)
    tower, decoder = Tower(shape), Decoder(shape)
    for module in [*tower.modules(), *decoder.modules()]:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(decoder.embedding.weight, std=0.5)
    with torch.no_grad():
        tower.patch.weight.copy_(cosine_basis(shape.tower_width) * 0.08)
    return tower, decoder
