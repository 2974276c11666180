"""``llava-server describe``: a real server, files good and bad, interrupted and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from live import ROOT, LiveServer

EXAMPLE = ROOT / "models" / "demo" / "example.png"
ANSWER = "A red circle and a blue square on a white background."


def describe(*arguments: str | Path, **others: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server", "describe", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **others)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four good pictures, a bad one, and what is no picture."""
    folder = tmp_path / "photos"
    for name in ("a.png", "b.png", "sub/c.png", "d \u00e9.PNG"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE, folder / name)
    (folder / "bad.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("not sent")
    return folder


def test_one_picture_is_one_line(demo: LiveServer) -> None:
    done = describe(EXAMPLE, "--server", demo.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ANSWER}\n", "")


def test_the_question_and_the_detail_are_sent(demo: LiveServer) -> None:
    asked = describe(
        EXAMPLE,
        "-p",
        "What colour is the circle?",
        "--detail",
        "low",
        "--json",
        "--server",
        demo.url,
    )
    (made,) = json.loads(asked.stdout)
    assert "red" in made["text"].lower()
    assert made["image_tokens"] == 16


def test_a_bad_file_among_good_ones_is_reported_and_the_rest_done(
    demo: LiveServer, photos: Path
) -> None:
    done = describe(photos, "--jsonl", "--server", demo.url)
    assert done.returncode == 1
    made = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(each["file"]).name for each in made] == [
        "a.png",
        "b.png",
        "bad.jpg",
        "d \u00e9.PNG",
        "c.png",
    ]
    assert [each["text"] for each in made if each["error"] is None] == [ANSWER] * 4
    assert "bad.jpg: " in done.stderr
    assert "4 of 5 described" in done.stderr


def test_texts_are_written_beside_and_a_second_run_resumes(demo: LiveServer, photos: Path) -> None:
    (photos / "a.png.txt").write_text("mine\n")
    done = describe(photos, "--out-suffix", ".txt", "--server", demo.url)
    assert "1 of 5 are there already" in done.stderr
    assert (photos / "a.png.txt").read_text() == "mine\n"
    assert (photos / "sub" / "c.png.txt").read_text() == f"{ANSWER}\n"
    assert not (photos / "bad.jpg.txt").exists()
    (photos / "bad.jpg").unlink()
    again = describe(photos, "--out-suffix", ".txt", "--server", demo.url)
    assert (again.returncode, again.stdout) == (0, "")
    assert not list(photos.rglob("*.partial"))


def test_without_a_server_it_brings_its_own(tmp_path: Path) -> None:
    done = describe(
        EXAMPLE,
        "--server",
        "http://127.0.0.1:9",
        env={**os.environ, "LLAVA_CACHE_DIR": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, f"{ANSWER}\n")
    assert "starting a server with demo" in done.stderr


def test_mistakes_are_one_line(demo: LiveServer, tmp_path: Path) -> None:
    for arguments, words in (
        (["no.png", "--server", demo.url], "no.png: no such file"),
        ([str(tmp_path), "--server", demo.url], "there is no picture in this folder"),
        ([str(EXAMPLE), "-m", "nosuch"], "nosuch"),
    ):
        done = describe(*arguments)
        assert done.returncode != 0
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_what_is_done(demo: LiveServer, tmp_path: Path) -> None:
    for number in range(200):
        shutil.copy(EXAMPLE, tmp_path / f"{number:03}.png")
    command = [sys.executable, "-m", "server", "describe", str(tmp_path), "--out-suffix", ".txt"]
    running = subprocess.Popen(
        [*command, "--server", demo.url], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Traceback" not in said
    done = list(tmp_path.glob("*.txt"))
    assert 0 < len(done) < 200
    assert {path.read_text() for path in done} == {f"{ANSWER}\n"}
