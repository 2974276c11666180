"""A small SentencePiece-style vocabulary: every text can be written, every id can be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gguf import GGUFWriter, TokenType

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.content is string %}{% set text = message.content %}"
    "{% else %}{% set text = message.content | map(attribute='text') | join %}{% endif %}"
    "{% if message.role == 'system' %}{{ text }} "
    "{% elif message.role == 'user' %}USER: {{ text }} "
    "{% else %}ASSISTANT: {{ text }}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_SPACE = "\u2581"
END = 2
LEAST = 3 + 256 + 96  # control tokens, bytes, a space and printable ASCII


def add_vocabulary(writer: GGUFWriter, size: int, special: tuple[str, ...] = ()) -> None:
    """Adds a tokenizer of ``size`` pieces (at least LEAST) and Vicuna's chat template.

    <unk>, <s>, </s>, the 256 bytes, printable ASCII, invented words for the rest, and at the end
    those that are ``special``. Raises ValueError where ``size`` is too small.
    """
    if size < LEAST + len(special):
        raise ValueError(f"a vocabulary of {size} pieces: at least {LEAST} are needed")
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), _SPACE]
    pieces += [chr(code) for code in range(33, 127)]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    pieces += itertools.islice(_words(), size - len(pieces) - len(special))
    types += [TokenType.NORMAL] * (len(pieces) - len(types))
    pieces += special
    types += [TokenType.CONTROL] * len(special)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    # Longer pieces score higher, so that words are preferred to their letters.
    writer.add_token_scores([float(len(piece)) for piece in pieces])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(END)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_chat_template(TEMPLATE)


def _words() -> Iterator[str]:
    """Syllables, then words of one, two, three of them: each joins two pieces that came before."""
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    yield from syllables
    for length in itertools.count(1):
        for word in itertools.product(syllables, repeat=length):
            yield _SPACE + "".join(word)
