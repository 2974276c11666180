"""file: URLs: what lies below the root is read, and nothing is told of the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.errors import ImageError
from server.images.local_file import read_file
from server.images.options import ImageLimits

LIMITS = ImageLimits(max_bytes=100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a picture, beside a secret."""
    folder = tmp_path / "pictures"
    (folder / "deep er").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "deep er" / "b%.png").write_bytes(b"b")
    (tmp_path / "secret.png").write_bytes(b"secret")
    return folder


def refusal(url: str, root: Path) -> ImageError:
    with pytest.raises(ImageError) as caught:
        read_file(url, root, LIMITS, "url")
    assert caught.value.param == "url"
    return caught.value


def next_descriptors() -> list[int]:
    """The lowest free ones, which are the same again if nothing stayed open in between."""
    found = [os.dup(0) for _ in range(4)]
    for descriptor in found:
        os.close(descriptor)
    return found


def test_files_below_the_root_are_read(root: Path) -> None:
    assert read_file(f"file://{root}/a.png", root, LIMITS, None) == b"a"
    assert read_file(f"FILE://localhost{root}/a.png", root, LIMITS, None) == b"a"
    assert read_file(f"file:{root}/deep%20er/b%25.png", root, LIMITS, None) == b"b"
    assert read_file(f"file://{root}/deep er/../a.png", root, LIMITS, None) == b"a"


def test_links_are_followed_as_long_as_they_stay_below(root: Path, tmp_path: Path) -> None:
    (root / "inside.png").symlink_to(root / "a.png")
    (root / "folder").symlink_to(root / "deep er")
    assert read_file(f"file://{root}/inside.png", root, LIMITS, None) == b"a"
    assert read_file(f"file://{root}/folder/b%25.png", root, LIMITS, None) == b"b"
    (tmp_path / "link to root").symlink_to(root)
    by_link = tmp_path / "link to root"
    assert read_file(f"file://{by_link}/a.png", by_link, LIMITS, None) == b"a"


def test_nothing_outside_is_read_and_whether_it_exists_is_not_told(
    root: Path, tmp_path: Path
) -> None:
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "up").symlink_to(tmp_path)
    (tmp_path / "pictures2").mkdir()
    (tmp_path / "pictures2" / "a.png").write_bytes(b"sibling")
    missing = refusal(f"file://{root}/missing.png", root)
    assert missing.code == "image_file_not_found"
    for url in (
        "file:///etc/passwd",
        f"file://{tmp_path}/secret.png",
        f"file://{root}/../secret.png",
        f"file://{root}/%2e%2e/secret.png",
        f"file://{root}/out.png",
        f"file://{root}/up/secret.png",
        f"file://{tmp_path}/pictures2/a.png",
    ):
        error = refusal(url, root)
        assert (error.message, error.code) == (missing.message, missing.code), url


@pytest.mark.parametrize(
    "url",
    ["file://", "file:", "file:a.png", "file://host/a.png", "file:///%00", "file:///a%ff",
     "file:///" + "a" * 5000, "file:///" + "a/" * 3000],
)  # fmt: skip
def test_urls_that_name_no_file(url: str, root: Path) -> None:
    assert refusal(url, root).code == "image_file_not_found"


def test_only_regular_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    for name in ("pipe", "deep er", "", "a.png/b"):
        assert refusal(f"file://{root}/{name}", root).code == "image_file_not_found"
    (root / "closed.png").symlink_to(root / "closed.png")
    assert refusal(f"file://{root}/closed.png", root).code == "image_file_not_found"


def test_the_limit_of_bytes(root: Path) -> None:
    (root / "just.png").write_bytes(b"x" * 100)
    (root / "big.png").write_bytes(b"x" * 101)
    (root / "empty.png").touch()
    assert len(read_file(f"file://{root}/just.png", root, LIMITS, None)) == 100
    assert refusal(f"file://{root}/big.png", root).code == "image_too_large"
    assert refusal(f"file://{root}/empty.png", root).code == "invalid_image"


def test_a_folder_exchanged_for_a_link_on_the_way_is_not_entered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b%.png").write_bytes(b"secret")
    resolve = os.path.realpath

    def realpath(path: object, **options: object) -> str:
        found = resolve(path, **options)  # type: ignore[call-overload]
        if str(path).endswith(".png"):
            (root / "deep er").rename(root / "away")
            (root / "deep er").symlink_to(tmp_path / "elsewhere")
        return str(found)

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert refusal(f"file://{root}/deep%20er/b%25.png", root).code == "image_file_not_found"


def test_no_descriptor_stays_open(root: Path) -> None:
    before = next_descriptors()
    assert read_file(f"file://{root}/deep%20er/b%25.png", root, LIMITS, None) == b"b"
    for name in ("missing", "deep%20er/missing", "no/such", "deep%20er", "a.png/b"):
        refusal(f"file://{root}/{name}", root)
    assert next_descriptors() == before
