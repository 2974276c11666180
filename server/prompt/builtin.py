"""Chat templates for models whose GGUF carries none, by the name of the conversation style."""

from __future__ import annotations

_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

# These families know one system message, in front, and turns that alternate. What does not is put
# in order before (server.prompt.turn); an assistant's greeting may come first, as LLaVA's own
# conversation code writes it.
_ALTERNATING = """\
{%- set ns = namespace(system=none, last=none) -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- if ns.last is not none -%}{{ raise_exception('a system message must come first') }}{%- endif -%}
{%- set ns.system = (ns.system + '\\n' if ns.system is not none else '') + message.content -%}
{%- else -%}
{%- if message.role == ns.last -%}
{{ raise_exception('roles must alternate user/assistant/user/assistant') }}
{%- endif -%}
{%- set ns.last = message.role -%}
{%- endif -%}
{%- endfor -%}
"""

_VICUNA = (
    _ALTERNATING
    + "{{ ns.system if ns.system is not none else '"
    + _VICUNA_SYSTEM.replace("'", "\\'")
    + """' }}{{ ' ' }}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{{ 'USER: ' + message.content + ' ' }}
{%- elif message.role == 'assistant' -%}{{ 'ASSISTANT: ' + message.content + '</s>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'ASSISTANT:' }}{%- endif -%}
"""
)

_MISTRAL = (
    _ALTERNATING
    + """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '[INST] ' }}
{%- if ns.system is not none -%}{{ ns.system + '\\n\\n' }}{%- set ns.system = none -%}{%- endif -%}
{{ message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' -%}
{%- if ns.system is not none -%}{{ '[INST] ' + ns.system + ' [/INST]' }}
{%- set ns.system = none -%}{%- endif -%}
{{ ' ' + message.content + '</s>' }}
{%- endif -%}
{%- endfor -%}
"""
)

_LLAMA2 = (
    _ALTERNATING
    + """\
{%- for message in messages -%}
{%- if message.role == 'user' -%}
{{ '[INST] ' }}
{%- if ns.system is not none -%}
{{ '<<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n' }}{%- set ns.system = none -%}
{%- endif -%}
{{ message.content + ' [/INST]' }}
{%- elif message.role == 'assistant' -%}
{%- if ns.system is not none -%}
{{ '[INST] <<SYS>>\\n' + ns.system + '\\n<</SYS>>\\n\\n [/INST]' }}{%- set ns.system = none -%}
{%- endif -%}
{{ ' ' + message.content + ' </s>' }}
{%- endif -%}
{%- endfor -%}
"""
)

_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# LLaVA-1.6-34B was trained without a newline between turns and always with a system message.
_CHATML_LLAVA = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nAnswer the questions.<|im_end|>' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

_LLAMA3 = """\
{%- for message in messages -%}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{{- message.content + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif -%}
"""

_PHI3 = """\
{%- for message in messages -%}
{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}
"""

_GEMMA = (
    _ALTERNATING
    + """\
{%- for message in messages if message.role != 'system' -%}
{%- if loop.first and ns.system is not none and message.role == 'assistant' -%}
{{ '<start_of_turn>user\\n' + ns.system + '<end_of_turn>\\n' }}{%- set ns.system = none -%}
{%- endif -%}
{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}
{%- if loop.first and ns.system is not none -%}{{ ns.system + '\\n\\n' }}{%- endif -%}
{{ message.content + '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}
"""
)

_PLAIN = """\
{%- for message in messages -%}
{{ message.content }}{{ '\\n' if not loop.last }}
{%- endfor -%}
"""

TEMPLATES: dict[str, str] = {
    "vicuna": _VICUNA,
    "mistral": _MISTRAL,
    "llama-2": _LLAMA2,
    "llama-3": _LLAMA3,
    "chatml": _CHATML,
    "chatml-llava": _CHATML_LLAVA,
    "phi-3": _PHI3,
    "gemma": _GEMMA,
    "plain": _PLAIN,
}
