"""ToolStyle: the ways in which models write down their calls.

Only ways that are seen in a template's own rendering are taken for a model's; any other model
is asked to use Hermes's, which is plain enough to be followed from a description alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_JSON_HEAD: Final = r'\{{\s*"name"\s*:\s*"(?P<name>[^"]*)"\s*,\s*"{key}"\s*:\s*(?=\{{)'


@dataclass(slots=True, frozen=True)
class ToolStyle:
    """How calls stand in the text of an answer.

    ``start`` begins the first call and is never a part of the content; ``anywhere`` says whether
    content may come before it. A call is ``opens``, its name, ``middle``, its arguments, and
    ``closes``; several stand between ``before`` and ``after``, divided by ``between``.
    ``head`` finds a call up to its arguments. ``several`` says whether there may be more than
    one. ``words`` are tokens that must be seen in the text even where they are control tokens.
    """

    name: str
    start: str
    head: re.Pattern[str]
    opens: str
    middle: str
    closes: str
    before: str = ""
    between: str = ""
    after: str = ""
    anywhere: bool = True
    several: bool = True
    words: tuple[str, ...] = ()

    def write(self, calls: list[tuple[str, str]]) -> str:
        """Calls as the model would have written them; each is a name and its arguments."""
        written = (f"{self.opens}{name}{self.middle}{args}{self.closes}" for name, args in calls)
        return self.before + self.between.join(written) + self.after


# NousResearch's Hermes function-calling format, also Qwen 2.5's and 3's.
HERMES: Final = ToolStyle(
    name="hermes",
    start="<tool_call>",
    head=re.compile(r"<tool_call>\s*" + _JSON_HEAD.format(key="arguments")),
    opens='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    closes="}\n</tool_call>",
    between="\n",
    words=("<tool_call>", "</tool_call>"),
)
# Mistral's tokenizers V2 and V3.
MISTRAL: Final = ToolStyle(
    name="mistral",
    start="[TOOL_CALLS]",
    head=re.compile(_JSON_HEAD.format(key="arguments")),
    opens='{"name": "',
    middle='", "arguments": ',
    closes="}",
    before="[TOOL_CALLS][",
    between=", ",
    after="]",
    words=("[TOOL_CALLS]",),
)
# Mistral's tokenizers V11, which write an id of nine characters, and V13, which do not.
MISTRAL_ARGS: Final = ToolStyle(
    name="mistral-args",
    start="[TOOL_CALLS]",
    head=re.compile(
        r"\[TOOL_CALLS\](?P<name>[^\[]*)(?:\[CALL_ID\]\w{9})?\[ARGS\]\s*(?=\{)", re.ASCII
    ),
    opens="[TOOL_CALLS]",
    middle="[ARGS]",
    closes="",
    words=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
)
# Meta's Llama 3.1 to 3.3: the whole answer is the call.
LLAMA3: Final = ToolStyle(
    name="llama-3",
    start='{"name"',
    head=re.compile(_JSON_HEAD.format(key="parameters")),
    opens='{"name": "',
    middle='", "parameters": ',
    closes="}",
    anywhere=False,
    several=False,
)

STYLES: Final = (HERMES, MISTRAL, MISTRAL_ARGS, LLAMA3)


def recognize(text: str, name: str, key: str) -> ToolStyle | None:
    """The style in which ``text`` holds a call of ``name`` whose only argument is ``key``."""
    for style in STYLES:
        begun = text.rfind(style.start, 0, text.rfind(key))
        for found in style.head.finditer(text, max(begun, 0)) if begun >= 0 else ():
            arguments = text[found.end() :]
            if found["name"] == name and re.match(r'\{\s*"' + key + '"', arguments):
                return style
    return None
