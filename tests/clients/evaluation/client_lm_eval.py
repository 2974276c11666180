"""lm-evaluation-harness: a task with pictures over chat completions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets

TASK = """\
task: circle
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {data}
output_type: generate_until
test_split: test
doc_to_image: !function utils.images
doc_to_text: "<image>{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 32
  temperature: 0
metric_list:
  - metric: exact_match
    regexes_to_ignore: ["^.*(?=red)", "(?<=red).*$"]
"""


def test_a_task_with_pictures(url: str, tmp_path: Path) -> None:
    rows = {
        "image": [os.environ["LLAVA_TEST_PICTURE"]] * 2,
        "question": ["What colour is the circle?"] * 2,
        "answer": ["red"] * 2,
    }
    data = tmp_path / "test.parquet"
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(data)
    (tmp_path / "circle.yaml").write_text(TASK.format(data=data))
    (tmp_path / "utils.py").write_text("def images(row):\n    return [row['image']]\n")
    model = f"model=demo,base_url={url}/v1/chat/completions,max_images=2"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-chat-completions"]
    command += ["--model_args", model, "--include_path", str(tmp_path), "--tasks", "circle"]
    command += ["--apply_chat_template", "--output_path", str(tmp_path / "out")]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "unused"}
    subprocess.run(command, check=True, env=environ, cwd=tmp_path)
    (found,) = (tmp_path / "out").rglob("results*.json")
    results = json.loads(found.read_text())["results"]["circle"]
    assert results["exact_match,none"] == 1
