"""Chat templates with tool markup, cut down to what matters, one for each style that we know."""

from __future__ import annotations

HERMES = """\
{%- if tools %}<|im_start|>system
# Tools
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == "tool" %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}
{%- for call in m.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

_MISTRAL = """\
{%%- if tools %%}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{%% endif %%}
{%%- for m in messages %%}
{%%- if m.tool_calls is defined %%}%s</s>
{%%- elif m.role == "tool" %%}[TOOL_RESULTS]{{ m.content }}[/TOOL_RESULTS]
{%%- elif m.role == "user" %%}[INST]{{ m.content }}[/INST]
{%%- else %%}{{ m.content }}</s>{%% endif %%}
{%%- endfor %%}"""

MISTRAL = _MISTRAL % (
    "[TOOL_CALLS][{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }},'
    ' "id": "{{ call.id }}"}{{ ", " if not loop.last }}{% endfor %}]'
)
MISTRAL_ARGS = _MISTRAL % (
    "{% for call in m.tool_calls %}[TOOL_CALLS]{{ call.function.name }}[ARGS]"
    "{{ call.function.arguments | tojson }}{% endfor %}"
)
LLAMA3 = """\
{%- for m in messages %}
{%- if m.tool_calls is defined %}{% if m.tool_calls | length > 1 %}
{{- raise_exception("one call at a time") }}{% endif -%}
{%- set call = m.tool_calls[0].function -%}
<|start_header_id|>assistant<|end_header_id|>

{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}<|eot_id|>
{%- else %}<|start_header_id|>{{ "ipython" if m.role == "tool" else m.role }}<|end_header_id|>
{% if loop.first and tools %}{{ tools | tojson }}
{% endif %}
{{ m.content }}<|eot_id|>{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""

BY_STYLE = {
    "hermes": HERMES,
    "mistral": MISTRAL,
    "mistral-args": MISTRAL_ARGS,
    "llama-3": LLAMA3,
}
