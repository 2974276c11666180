"""Write requirements.lock and requirements-dev.lock: ``make lock``.

Uses uv, from the PATH or from a throw-away environment, because it resolves for all supported
Pythons and systems at once. No index is named, so that the locks work with any mirror.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = (
    "--universal",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-annotate",
    "--no-header",
    "--upgrade",
    "--quiet",
    "--python-version",
    "3.10",
)


def compile_lock(uv: str, output: str, *extra: str) -> None:
    """Resolve pyproject.toml's dependencies into one lock."""
    command = [uv, "pip", "compile", "pyproject.toml", *OPTIONS, *extra, "--output-file", output]
    environ = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    subprocess.run(command, cwd=ROOT, check=True, env=environ)
    print(f"wrote {output}: {(ROOT / output).read_text(encoding='utf-8').count('==')} entries")


def main() -> None:
    """Write both locks; the second agrees with the first."""
    with tempfile.TemporaryDirectory() as folder:
        uv = shutil.which("uv")
        if uv is None:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([f"{folder}/bin/python", "-m", "pip", "install", "-q", "uv"], check=True)
            uv = f"{folder}/bin/uv"
        compile_lock(uv, "requirements.lock")
        compile_lock(uv, "requirements-dev.lock", "--extra", "dev", "-c", "requirements.lock")


if __name__ == "__main__":
    main()
