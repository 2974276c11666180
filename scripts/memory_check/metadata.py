"""Metadata of every architecture that llama.cpp knows, for models that need no tensors.

Small but uneven numbers, so that a width that is mistaken for another shows. Facts of which key
an architecture needs: llama.cpp's ``tests/test-llama-archs.cpp`` and ``src/models``.
"""

from __future__ import annotations

from typing import Any, Final

LATENT: Final = frozenset(
    {"deepseek2", "deepseek32", "glm-dsa", "kimi-linear", "bailingmoe3", "kimi-k3", "mistral4"}
)
_BY_HEADS: Final = frozenset(
    {"plamo2", "jamba", "nemotron_h", "nemotron_h_moe", "granitehybrid", "lfm2", "lfm2moe"}
    | {"kimi-linear", "bailingmoe3", "kimi-k3"}
)
_PATTERN_LIST: Final = frozenset(
    {"cohere2moe", "mimo2", "step35", "spark2_5", "muse-glimmer", "granite_swa", "maple", "gemma4"}
)
_DENSE: Final = frozenset(
    {"llama", "deci", "falcon", "gpt2", "gptneox", "mpt", "baichuan", "starcoder", "refact"}
    | {"bloom", "stablelm", "qwen", "qwen2", "qwen2vl", "qwen3", "qwen3vl", "phi2", "phi3", "plamo"}
    | {"plamo3", "codeshell", "orion", "internlm2", "minicpm", "minicpm3", "gemma", "gemma2"}
    | {"gemma3", "gemma3n", "starcoder2", "mamba", "mamba2", "falcon-h1", "xverse", "command-r"}
    | {"cohere2", "olmo", "olmo2", "openelm", "chatglm", "glm4", "bitnet", "jais", "jais2"}
    | {"nemotron", "nemotron_h", "exaone", "exaone4", "granite", "granitehybrid", "arcee"}
    | {"hunyuan-dense", "smollm3", "lfm2", "seed_oss", "apertus", "plamo2", "jamba", "mistral3"}
    | {"gemma4", "granite_swa", "muse-glimmer", "pangu-embedded", "ernie4_5", "maincoder"}
    | {"talkie", "spark2_5"}
)
_EXPERTS: Final = frozenset(
    {"llama4", "grok", "qwen2moe", "qwen3moe", "qwen3vlmoe", "qwen3next", "qwen35moe", "phimoe"}
    | {"dbrx", "olmoe", "arctic", "deepseek", "deepseek2", "deepseek32", "glm4moe", "glm-dsa"}
    | {"exaone-moe", "bailingmoe", "bailingmoe2", "dots1", "afmoe", "ernie4_5-moe", "hunyuan-moe"}
    | {"gpt-oss", "lfm2moe", "smallthinker", "grovemoe", "minimax-m2", "minimax-01", "mimo2"}
    | {"kimi-linear", "step35", "mistral4", "mellum", "laguna", "maple", "cohere2moe"}
    | {"granitemoe", "nemotron_h_moe", "hy_v3", "minimax-m3"}
)
ARCHITECTURES: Final = tuple(sorted(_DENSE | _EXPERTS | {"qwen35"}))


def metadata(name: str) -> dict[str, Any]:
    """Keys and values of a small model; keys of the architecture without its name before them."""
    layers, heads, kv_heads, width = 8, 8, 4, 1024
    if name == "gemma3n":
        layers = 24
    if name in LATENT:
        kv_heads = 1
    found: dict[str, Any] = {
        "vocab_size": 512, "context_length": 8192, "embedding_length": width,
        "block_count": layers, "leading_dense_block_count": 1,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads,
        "feed_forward_length": 1536, "full_attention_interval": 4,
        "attention.layer_norm_epsilon": 1e-5, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.group_norm_epsilon": 1e-5, "attention.group_norm_groups": 8,
        "attention.q_lora_rank": 512, "attention.kv_lora_rank": 512,
        "attention.sliding_window": 768, "attention.max_alibi_bias": 8.0,
        "attention.clamp_kqv": 1.0, "attention.indexer.head_count": 64,
        "attention.indexer.key_length": 128, "attention.indexer.top_k": 131072,
        "attention.indexer.block_size": 4, "attention.indexer.local_blocks": 1,
        "logit_scale": 1.0, "use_parallel_residual": False, "residual_scale": 3.5,
        "ssm.inner_size": 2 * width, "ssm.conv_kernel": 4, "ssm.state_size": 128,
        "ssm.time_step_rank": 16, "ssm.group_count": 0 if name == "plamo2" else 2,
        "kda.head_dim": 128, "kda.safe_gate": True, "kda.gate_lower_bound": -5.0,
        "shortconv.l_cache": 3, "swiglu_clamp_exp": [7.0] * layers,
        "xielu.alpha_n": 1.0, "xielu.alpha_p": 1.0, "xielu.beta": 1.0, "xielu.eps": 1e-7,
        "embedding_length_per_layer_input": 256, "attention.shared_kv_layers": 2,
        "rope.dimension_sections": [32, 32, 32, 32], "rope.freq_base_swa": 10000.0,
    }  # fmt: skip
    found |= _experts(name)
    found |= _heads(name, layers, heads, kv_heads)
    found |= _windows(name, layers)
    return found


def _experts(name: str) -> dict[str, Any]:
    if name not in _EXPERTS:
        return {}
    return {
        "expert_count": 4, "expert_used_count": 2, "expert_shared_count": 1,
        "expert_feed_forward_length": 512, "expert_shared_feed_forward_length": 256,
        "expert_gating_func": 2, "interleave_moe_layer_step": 2, "experts_per_group": 1,
        "expert_group_scale": 1.0, "expert_latent_length": 512,
    }  # fmt: skip


def _heads(name: str, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if name in LATENT:
        found |= {
            "attention.key_length": 576, "attention.value_length": 512,
            "rope.dimension_count": 64, "attention.key_length_mla": 192,
            "attention.value_length_mla": 128,
        }  # fmt: skip
    if name == "minimax-m3":
        found |= {"rope.dimension_count": 64, "attention.indexer.head_count": kv_heads}
    if name in _BY_HEADS:
        found["attention.head_count_kv"] = [kv_heads if il % 3 == 1 else 0 for il in range(layers)]
        found["attention.head_count"] = heads
    if name.startswith("nemotron_h"):
        found["feed_forward_length"] = [1536 if il % 3 == 2 else 0 for il in range(layers)]
    if name == "gemma4":
        found |= {"attention.key_length": 256, "attention.value_length": 256}
        found |= {"attention.key_length_swa": 128, "attention.value_length_swa": 128}
    if name in {"olmoe", "dots1", "minicpm3"}:
        found["attention.head_count_kv"] = heads
    if name in {"deci", "openelm"}:
        found["attention.head_count_kv"] = [kv_heads if il % 2 else 2 for il in range(layers)]
        found["attention.head_count"] = [heads] * layers
        found["feed_forward_length"] = [1536] * layers
    return found


def _windows(name: str, layers: int) -> dict[str, Any]:
    if name == "gemma4":
        return {"attention.sliding_window_pattern": [int(il % 2 == 0) for il in range(layers)]}
    if name in _PATTERN_LIST:
        return {"attention.sliding_window_pattern": [int(il % 4 != 3) for il in range(layers)]}
    return {}
