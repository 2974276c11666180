"""Encoded pictures on disk: found again, never another tower's, never a damaged one."""

from __future__ import annotations

import os
import queue
import re
import tempfile
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.engine.request import Picture
from server.engine.vision.disk_cache import EncodeQueued, ImageStore, KeptEncodes
from server.engine.vision.encode import EncodeDone
from server.errors import StartupError
from tests.asking import RED, ask, shape
from tests.engine_fakes import picture
from tests.live import LiveServer

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def store_in(folder: Path, tower: str = "t", max_bytes: int = 10_000) -> ImageStore:
    return ImageStore(folder, tower, max_bytes)


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.rows")
    return path


def test_rows_come_back_as_they_were_from_another_process_too(tmp_path: Path) -> None:
    store = store_in(tmp_path / "new" / "folder")
    assert store.get("a") is None
    store.put("a", ROWS)
    again = store_in(tmp_path / "new" / "folder")
    assert again.n_bytes == store.n_bytes > ROWS.nbytes
    found = again.get("a")
    assert found is not None
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, ROWS)
    found[0, 0] = 1.0  # ours to change


def test_another_tower_and_another_picture_find_nothing(tmp_path: Path) -> None:
    store_in(tmp_path, "t").put("a", ROWS)
    assert store_in(tmp_path, "other").get("a") is None
    assert store_in(tmp_path, "t").get("b") is None
    # Even under the right name, a file that says that it is another's is not believed.
    file = only_file(tmp_path)
    store_in(tmp_path / "x", "other").put("a", ROWS)
    name = only_file(tmp_path / "x").name
    (tmp_path / "x" / name).write_bytes(file.read_bytes())
    assert store_in(tmp_path / "x", "other").get("a") is None


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_file_is_removed_and_never_used(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        store = store_in(Path(name))
        store.put("a", ROWS)
        file = only_file(Path(name))
        whole = file.read_bytes()
        cut = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            file.write_bytes(whole[:cut])
        else:
            flipped = whole[cut] ^ data.draw(st.integers(1, 255))
            file.write_bytes(whole[:cut] + bytes([flipped]) + whole[cut + 1 :])
        assert store.get("a") is None
        assert not file.exists()
        store.put("a", ROWS)
        assert store.get("a") is not None


def test_the_ones_used_longest_ago_go_first(tmp_path: Path) -> None:
    store = store_in(tmp_path, max_bytes=700)
    for age, name in enumerate("abc"):
        store.put(name, ROWS)
        for path in tmp_path.iterdir():
            stat = path.stat()
            os.utime(path, (stat.st_atime, stat.st_mtime - 10))
        assert store.n_bytes <= 700, age
    assert store.get("a") is not None  # used now
    store.put("d", ROWS)
    store.put("e", ROWS)
    kept = {name for name in "abcde" if store_in(tmp_path).get(name) is not None}
    assert "e" in kept
    assert "b" not in kept
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 700


def test_what_exceeds_the_bound_alone_is_not_written(tmp_path: Path) -> None:
    store_in(tmp_path, max_bytes=100).put("a", ROWS)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_used_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="--image-cache-dir"):
        store_in(tmp_path / "file" / "folder")


def test_a_full_disk_costs_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = store_in(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    store.put("a", ROWS)
    assert "cannot keep" in caplog.text
    assert store.get("a") is None


def test_what_the_disk_has_not_goes_to_the_encoder(tmp_path: Path) -> None:
    posted: queue.SimpleQueue[object] = queue.SimpleQueue()
    encoded: list[list[Picture]] = []
    kept = KeptEncodes(store_in(tmp_path), encoded.append, posted.put)
    one, two = Picture(picture("a"), 4, 2, 2), Picture(picture("b"), 4, 2, 2)
    kept.submit([one, two])
    assert posted.get(timeout=10) == EncodeQueued([one, two])
    assert encoded == [[one, two]]
    kept.keep(one.image.digest, ROWS)
    kept.submit([one, two])
    done = posted.get(timeout=10)
    assert isinstance(done, EncodeDone)
    assert (done.picture, done.kept) == (one, True)
    np.testing.assert_array_equal(done.rows, ROWS)
    assert posted.get(timeout=10) == EncodeQueued([two])
    other = Picture(picture("a"), 5, 5, 1)  # counted otherwise: not to be trusted
    kept.submit([other])
    assert posted.get(timeout=10) == EncodeQueued([other])
    kept.close()


class Broken(ImageStore):
    """A disk that fails in ways that nobody thought of."""

    def get(self, digest: str) -> None:
        raise OSError(116, "Stale file handle")

    def put(self, digest: str, rows: object) -> None:
        raise OSError(13, "Permission denied")


def test_a_store_that_breaks_costs_no_request(tmp_path: Path) -> None:
    posted: queue.SimpleQueue[object] = queue.SimpleQueue()
    kept = KeptEncodes(Broken(tmp_path, "t", 10_000), lambda _: None, posted.put)
    one, two = Picture(picture("a"), 4, 2, 2), Picture(picture("b"), 4, 2, 2)
    kept.keep(one.image.digest, ROWS)
    for pictures in ([one], [two]):
        kept.submit(pictures)
        assert posted.get(timeout=10) == EncodeQueued(pictures)
    kept.close()


def test_a_folder_that_may_not_be_looked_into_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_in(tmp_path, max_bytes=200 + ROWS.nbytes)

    def fails(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", fails)
    store.put("a", ROWS)
    monkeypatch.undo()
    monkeypatch.setattr(Path, "glob", fails)
    store.n_bytes = 10_000
    store.put("b", ROWS)
    assert caplog.text.count("cannot keep") == 2


def test_a_picture_is_not_encoded_again_after_a_restart(tmp_path: Path) -> None:
    kept = ("--image-cache-dir", str(tmp_path / "kept"))
    replies, hits = [], []
    for name in ("first", "second"):
        with LiveServer(tmp_path / name, *kept) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
            replies.append(ask(client, shape("circle", RED), "Which colour?"))
            metrics = httpx.get(f"{server.url}/metrics").text
            hits += re.findall(r"^llava_mm_cache_disk_hits_total\S* (\S+)$", metrics, re.MULTILINE)
    first, second = (reply.model_dump() for reply in replies)
    assert first["choices"][0]["message"] == second["choices"][0]["message"]
    assert first["images"][0]["encode_ms"] > 0
    assert second["images"][0]["encode_ms"] == 0
    assert hits == ["0.0", "1.0"]
