"""Write docs/settings.md from the settings: ``python -m scripts.document_settings``."""

from __future__ import annotations

from pathlib import Path

from server.settings.command_line import default_text, flag_info, flag_of, variable_of
from server.settings.settings import Settings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
HEAD = """\
# Settings

Every setting can be given in three places. A flag of `llava-server serve` beats a variable, a
variable beats a key of the TOML file that `--config` or `LLAVA_CONFIG` names, and what is given
nowhere has its default. Names follow llama-server's where it has the flag.

```toml
# llava.toml: keys are the flags without their dashes
model = "llava-1.6-mistral-7b"
port = 9000
n-gpu-layers = "all"
image-background = "#7f7f7f"
```

A wrong value, an unknown key and an unknown `LLAVA_*` variable stop the start with one line that
names it, and exit code 2. Empty variables count as not given. Switches are given as `--offline` or
`--no-offline`, and as `true` or `false` elsewhere.

Models from the Hub follow huggingface-hub's own variables: `HF_HOME` (where they are kept),
`HF_ENDPOINT` (a mirror), `HF_TOKEN` (gated and private repositories), `HF_HUB_OFFLINE`.

This page is written by `python -m scripts.document_settings`; a test compares.
"""


def page() -> str:
    """The page's text."""
    lines = [HEAD.rstrip()]
    group = ""
    for name, field in Settings.model_fields.items():
        info = flag_info(field)
        if info.group != group:
            group = info.group
            lines += ["", f"## {group}", "", "| flag | variable | default | what it is |"]
            lines += ["|---|---|---|---|"]
        spellings = ", ".join(f"`{flag}`" for flag in (flag_of(name), *info.short))
        cells = (spellings, f"`{variable_of(name)}`", default_text(field), str(field.description))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
