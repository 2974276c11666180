"""Write the table of fields into docs/api.md: ``python -m scripts.document_fields``."""

from __future__ import annotations

import json
from pathlib import Path

from server.api.fields.policy_table import APIS, TABLE, Rule

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
BEGIN, END = "<!-- fields: begin -->\n", "<!-- fields: end -->\n"


def rows(*, refused: bool) -> list[str]:
    """The table's lines: fields that are treated alike, in which APIs, and why."""
    apis: dict[str, list[str]] = {}
    named: dict[str, Rule] = {}
    for api in APIS:
        for rule in TABLE[api].values():
            if rule.refused is refused:
                apis.setdefault(repr(rule), []).append(api)
                named[repr(rule)] = rule
    # Names of one rule in the same APIs share a line.
    shared: dict[tuple[str, str, str], list[str]] = {}
    for key, rule in named.items():
        neutral = ", ".join(f"`{_json(value)}`" for value in rule.neutral)
        shared.setdefault((", ".join(apis[key]), neutral, rule.why), []).append(f"`{rule.name}`")
    lines = []
    for (where, neutral, why), names in shared.items():
        cells = [", ".join(names), where, *([neutral] if refused else []), why]
        lines.append(f"| {' | '.join(cells)} |\n")
    return lines


def _json(value: object) -> str:
    return json.dumps(value)


def page(text: str) -> str:
    """The page with the table of today."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    ignored = ["| ignored | in | because |\n", "|---|---|---|\n", *rows(refused=False)]
    refused = [
        "| refused | in | unless it is null or | instead |\n",
        "|---|---|---|---|\n",
        *rows(refused=True),
    ]
    return head + BEGIN + "".join([*ignored, "\n", *refused]) + END + tail


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
