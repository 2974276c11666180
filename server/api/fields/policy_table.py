"""Which fields clients may send that change nothing here, and which are refused. One table.

A field is one of three things:

- honoured: a field of the request's model, or a word of its conversation;
- ignored: a hint. The answer is as good without it. It is reported once per name in the log and in
  the header ``x-llava-ignored``;
- refused: a demand that the server does not meet. The error says what to do instead.

A demand is never ignored. ``python -m scripts.document_fields`` writes the table into docs/api.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Api = Literal["chat", "completions", "responses", "messages", "embeddings"]
APIS: Final[tuple[Api, ...]] = ("chat", "completions", "responses", "messages", "embeddings")


@dataclass(slots=True, frozen=True)
class Rule:
    """What becomes of one field. ``name`` is its path; ``[]`` stands for each item of a list.

    ``why`` says why it is ignored, or what to do where it is refused. A refused field is accepted
    with a ``neutral`` value, and with null.
    """

    name: str
    why: str
    refused: bool
    neutral: tuple[object, ...] = ()


def _ignored(names: str, why: str) -> list[Rule]:
    return [Rule(name, why, refused=False) for name in names.split()]


def _refused(names: str, why: str, *neutral: object) -> list[Rule]:
    return [Rule(name, why, refused=True, neutral=neutral) for name in names.split()]


_GENERATING: Final = ("chat", "completions", "responses", "messages")
_OPENAI: Final = ("chat", "completions", "responses")
_ALL: Final = APIS

_TEXT_ONLY = "the model answers in text alone; leave it out"
_ONE_TEMPLATE = "the operator chooses the template (--chat-template); leave it out"
_NO_TEMPLATE = "a prompt is taken as it is"
_NO_SERVER_TOOLS = "the server runs no tools and reaches no other server; give functions in tools"
_WHOLE_CONVERSATION = "send the whole conversation in each request"

# The rules and the APIs that they hold for. A later line beats an earlier one.
_LINES: tuple[tuple[tuple[Api, ...], list[Rule]], ...] = (
    # Who asks, how urgently, at what price: nothing depends on it.
    (_ALL, _ignored("service_tier priority request_id rid user_id", "all requests are alike")),
    (_ALL, _ignored("client_metadata", "names for the client's own use")),
    (_ALL, _ignored("keep_alive", "the model stays loaded")),
    (_ALL, _ignored("extra_headers extra_query extra_body", "an SDK's own arguments")),
    (_GENERATING, _ignored("speed", "the server has one speed")),
    (("messages",), _ignored("diagnostics billing_policy fallback_credit_token", "no bills here")),
    (("messages",), _ignored("user_profile_id workspace_id", "names for the client's own use")),
    (("messages",), _ignored("anthropic_version anthropic_beta betas", "headers elsewhere")),
    (_GENERATING, _ignored("fallbacks models provider route", "one model is served")),
    # How hard the model thinks and how much it says.
    (_GENERATING, _ignored("verbosity", "the model knows no such levels")),
    (_GENERATING, _ignored("think", "use enable_thinking")),
    (_GENERATING, _ignored("include_reasoning separate_reasoning", "use reasoning_format")),
    (_GENERATING, _ignored("stream_reasoning", "thoughts are streamed as answers are")),
    (("completions",), _ignored("reasoning_effort enable_thinking", _NO_TEMPLATE)),
    (("completions",), _ignored("reasoning thinking reasoning_format", _NO_TEMPLATE)),
    (("completions",), _ignored("thinking_budget_tokens reasoning_budget", _NO_TEMPLATE)),
    (("completions",), _ignored("thinking_token_budget chat_template_kwargs", _NO_TEMPLATE)),
    (("messages",), _ignored("reasoning_effort reasoning", "use thinking and output_config")),
    (("messages",), _ignored("enable_thinking reasoning_format", "use thinking")),
    (("messages",), _ignored("thinking_budget_tokens reasoning_budget", "use thinking")),
    (("responses",), _ignored("text.verbosity personality", "the model knows no such levels")),
    # Caching, speculation, places: what happens anyway, or changes only the speed.
    (_GENERATING, _ignored("prediction", "it would change only the speed")),
    (_GENERATING, _ignored("prompt_cache_retention prompt_cache_options", "all prompts are kept")),
    (("chat",), _ignored("messages[].content[].prompt_cache_breakpoint", "all prompts are kept")),
    (_GENERATING, _ignored("cache_salt kv_transfer_params session_params", "all prompts are kept")),
    (_OPENAI, _ignored("id_slot backend_sampling", "the server places requests")),
    (_OPENAI, _ignored("n_cache_reuse", "the server's --cache-reuse says it")),
    (_OPENAI, _ignored("n_keep n_discard", "the context is never shifted")),
    (("chat",), _ignored("store", "only /v1/responses stores answers")),
    (("messages", "responses"), _ignored("context_management", "nothing is left out")),
    (("messages",), _ignored("compaction", "nothing is left out")),
    (("responses",), _ignored("truncation", "what does not fit is refused, never cut")),
    (("responses",), _ignored("max_tool_calls", "it counts built-in tools; there are none")),
    # More in the answer than its reader needs.
    (_OPENAI, _ignored("return_progress verbose", "timings come at the end")),
    (("responses",), _ignored("timings_per_token", "timings come at the end")),
    (_OPENAI, _ignored("response_fields", "the whole answer is sent")),
    (_OPENAI, _ignored("stream_options.include_obfuscation", "no padding is sent")),
    (("responses",), _ignored("stream_options.continuous_usage_stats", "usage comes at the end")),
    (_OPENAI, _ignored("guided_decoding_backend backend", "one library holds all grammars")),
    (_OPENAI, _ignored("length_penalty early_stopping", "they belong to beam search")),
    (_ALL, _ignored("add_special_tokens", "BOS is put where the model's file says so")),
    (_OPENAI, _ignored("spaces_between_special_tokens", "special tokens are no text")),
    # What a message may bear beside its content.
    (("chat",), _ignored("messages[].prefix messages[].partial", "the last one is continued")),
    (
        ("chat",),
        _ignored(
            "messages[].reasoning_details",
            "use reasoning_content",
        ),
    ),
    (("messages",), _ignored("tools[].allowed_callers tools[].input_examples", "a hint")),
    (("messages",), _ignored("tools[].eager_input_streaming", "calls are streamed anyway")),
    (("responses",), _ignored("tools[].allowed_callers tools[].output_schema", "a hint")),
    (("responses",), _ignored("tools[].defer_loading", "the model is shown all functions")),
    (("embeddings",), _ignored("input_type task truncate", "the model embeds all texts alike")),
    # Demands that are not met.
    (_GENERATING, _refused("modalities", _TEXT_ONLY, ["text"])),
    (_GENERATING, _refused("audio image", _TEXT_ONLY)),
    (_GENERATING, _refused("web_search_options mcp_servers", _NO_SERVER_TOOLS, [])),
    (_GENERATING, _refused("moderation", "the server does not judge texts; leave it out")),
    (_GENERATING, _refused("functions", "give the functions in tools", [])),
    (_GENERATING, _refused("function_call", "use tool_choice", "none", "auto")),
    (_GENERATING, _refused("max_new_tokens num_predict max_length", "use max_tokens")),
    (_GENERATING, _refused("min_new_tokens min_length", "use min_tokens")),
    (_GENERATING, _refused("options", "it is Ollama's: give its members beside messages", {})),
    (_GENERATING, _refused("images", "give pictures as parts of a message's content", [])),
    (_GENERATING, _refused("best_of use_beam_search", "use n", 1, False)),
    (_GENERATING, _refused("echo", "only /v1/completions returns the prompt", False)),
    (
        ("responses", "messages"),
        _refused("prompt_logprobs", "use /v1/completions or /v1/chat/completions"),
    ),
    (_GENERATING, _refused("truncate_prompt_tokens", "shorten the prompt before it is sent", -1)),
    (_GENERATING, _refused("skip_special_tokens", "special tokens are never shown", True)),
    (_GENERATING, _refused("return_tokens return_token_ids", "use logprobs", False)),
    (_GENERATING, _refused("return_tokens_as_token_ids", "use logprobs", False)),
    (_GENERATING, _refused("return_hidden_states", "use /v1/embeddings", False)),
    (_GENERATING, _refused("post_sampling_probs", "use logprobs", False)),
    (_GENERATING, _refused("t_max_predict_ms", "use max_tokens", 0, -1)),
    (_GENERATING, _refused("n_indent", "use grammar", 0)),
    (_GENERATING, _refused("lora lora_path", "the operator chooses the weights", [])),
    (_GENERATING, _refused("grammar_lazy", "a grammar holds from the first token", False)),
    (_GENERATING, _refused("grammar_triggers", "a grammar holds from the first token", [])),
    (_GENERATING, _refused("parse_tool_calls", "calls are always read", True)),
    (_GENERATING, _refused("chat_template", _ONE_TEMPLATE)),
    (_GENERATING, _refused("mm_processor_kwargs", "use detail, low or high, of a picture", {})),
    (_GENERATING, _refused("documents", "put them into a message", [])),
    (_GENERATING, _refused("logits_processors custom_logit_processor", "use logit_bias", [])),
    (_GENERATING, _refused("stop_regex", "use stop", [])),
    (_GENERATING, _refused("structural_tag", "use response_format or tools")),
    (_GENERATING, _refused("guided_whitespace_pattern", "use a grammar")),
    (_OPENAI, _refused("mm_data multi_modal_data", "give pictures as parts of a message")),
    (("messages", "responses"), _refused("container", _NO_SERVER_TOOLS)),
    (("messages",), _refused("thread", _WHOLE_CONVERSATION)),
    (("messages",), _refused("inference_geo", "ask the operator where the server stands")),
    (("messages",), _refused("n", "the Messages API has one answer; ask again", 1)),
    (("messages",), _refused("stop", "use stop_sequences", [])),
    (("messages",), _refused("response_format format", "use output_config.format")),
    (
        ("messages",),
        _refused(
            "logit_bias bad_words allowed_token_ids stop_token_ids min_tokens ignore_eos ebnf",
            "it is served in /v1/chat/completions",
        ),
    ),
    (("responses",), _refused("n n_cmpl", "a response has one answer; ask again", 1)),
    (("responses",), _refused("background", "answers are sent at once", False)),
    (("responses",), _refused("background_options", "answers are sent at once")),
    (("responses",), _refused("conversation", "use previous_response_id")),
    (("responses",), _refused("prompt", "send the prompt's text in input")),
    (("responses",), _refused("messages", "use input")),
    (("responses",), _refused("response_format", "it is text.format in the Responses API")),
    (("responses",), _refused("access_programs", _NO_SERVER_TOOLS, [])),
    (("responses",), _refused("tools[].async", "calls are answered in order", False)),
    (("chat",), _refused("messages[].audio", "leave sound out")),
    (("chat",), _refused("messages[].function_call", "use tool_calls")),
    (
        ("chat",),
        _refused(
            "messages[].images",
            "it is Ollama's: give pictures as parts of content, of type image_url",
            [],
        ),
    ),
    (("chat", "completions"), _refused("input", "the prompt goes elsewhere: see docs/api.md")),
    (("completions",), _refused("suffix", "the model only continues texts", "")),
    (("completions",), _refused("messages", "use /v1/chat/completions")),
    (("completions",), _refused("max_completion_tokens", "use max_tokens")),
    (("completions",), _refused("top_logprobs", "use logprobs, a number here", 0)),
    (("completions",), _refused("tools", "use /v1/chat/completions", [])),
    (("completions",), _refused("tool_choice", "use /v1/chat/completions", "none", "auto")),
    (("completions",), _refused("add_generation_prompt", "a prompt is taken as it is")),
    (("completions",), _refused("continue_final_message", "a prompt is taken as it is", False)),
    (("embeddings",), _refused("messages", 'use input: {"content": [parts]}')),
    (("embeddings",), _refused("truncate_prompt_tokens", "shorten the input before", -1)),
    (("embeddings",), _refused("mm_processor_kwargs", "use detail, low or high", {})),
)
# Honoured by these, whatever the lines above say of others.
_HONOURED: dict[Api, frozenset[str]] = {
    "completions": frozenset({"best_of", "echo"}),
}


def _table(api: Api) -> dict[str, Rule]:
    found: dict[str, Rule] = {}
    for apis, rules in _LINES:
        if api in apis:
            found |= {rule.name: rule for rule in rules}
    for name in _HONOURED.get(api, ()):
        del found[name]
    return found


TABLE: Final[dict[Api, dict[str, Rule]]] = {api: _table(api) for api in APIS}


def names(api: Api) -> Iterable[str]:
    """The fields at a body's top that the table knows."""
    return (name.partition(".")[0].removesuffix("[]") for name in TABLE[api])
