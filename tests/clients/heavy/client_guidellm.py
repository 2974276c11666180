"""guidellm: a short benchmark of streamed chats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


def test_streams_are_measured(url: str, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Hello {n}"}) + "\n" for n in range(8)))
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "guidellm", "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={url},model=demo"]
    command += ["--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=4"]
    command += ["--data", f"kind=json_file,path={prompts}"]
    command += ["--output", f"kind=json,path={report}"]
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, cwd=tmp_path)
    (run,) = json.loads(report.read_text())["benchmarks"]
    # On a busy machine it cuts the last one off itself.
    assert run["metrics"]["request_totals"]["successful"] in (3, 4)
    assert run["metrics"]["request_totals"]["errored"] == 0
