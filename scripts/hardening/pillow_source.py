"""The picture files of Pillow's own test-suite, from the installed version's source archive."""

from __future__ import annotations

import os
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from scripts.setup.machine import cache_dir
from scripts.setup.run import run

OWN_SOURCE = "LLAVA_PILLOW_SOURCE"
FOLDER = "Tests/images/"


def suite() -> Iterator[tuple[str, bytes]]:
    """Every file below Tests/images by its name there, text files and broken ones included."""
    source = Path(os.environ.get(OWN_SOURCE) or _archive()).expanduser()
    found = _files(source) if source.is_dir() else _members(source)
    yield from sorted(found)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for images in [folder / FOLDER, *folder.glob(f"*/{FOLDER}")]:
        for path in images.rglob("*"):
            if path.is_file():
                yield path.relative_to(images).as_posix(), path.read_bytes()


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Read from the archive itself: nothing of it is written to the disk."""
    with tarfile.open(archive) as tar:
        for member in tar:
            _, _, name = member.name.partition(f"/{FOLDER}")
            file = tar.extractfile(member) if name and member.isfile() else None
            if file is not None:
                yield name, file.read()


def _archive() -> Path:
    """Pillow's source archive, downloaded once.

    pip builds the package's metadata of whatever it downloads. That works as long as only Pillow
    is taken as source: with ``--no-binary :all:`` its build tools would be built as well.
    """
    kept = cache_dir(os.environ) / "sources"
    wanted = version("pillow")
    found = kept / f"pillow-{wanted}.tar.gz"
    if not found.exists():
        print(f"downloading the source of Pillow {wanted}", file=sys.stderr, flush=True)
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=kept) as name:
            command = (
                *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "pillow"),
                *(f"pillow=={wanted}", "--dest", name),
            )
            run("downloading Pillow's source", command, kept / "download.log", os.environ)
            next(Path(name).glob("*.tar.gz")).replace(found)
    return found
