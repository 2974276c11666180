"""A request's way stays short: how many files it passes, as scripts/files_passed.py counts them."""

from __future__ import annotations

from pathlib import Path

from scripts.files_passed import ROOT, Recorder, files, measure, serving, steps

MOST_FILES, MOST_OF_A_STEP = 80, 12


def test_a_request_with_a_picture_passes_at_most_80_files(tmp_path: Path) -> None:
    with serving(ROOT, tmp_path) as url:
        request, middle = measure(url, Recorder(tmp_path))
    passed = files(request["web"]) | files(request["engine"])
    assert {"api/openai/chat.py", "engine/vision/encode.py"} <= passed, "the count works"
    assert len(passed) <= MOST_FILES, sorted(passed)
    each = steps(middle["engine"])
    assert each, "whole decode steps were seen"
    usual = min(each, key=len)
    assert len(usual) <= MOST_OF_A_STEP, sorted(usual)
