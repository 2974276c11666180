"""Finds prometheus and promtool, or unpacks Debian's package beside our cache; needs no root.

python -m scripts.prometheus_tools        prints where they are
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from server.settings.server import default_cache_dir

_NAMES = ("prometheus", "promtool")
_APT = ["apt-get", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=20"]
_SECONDS = 120  # for each step


class NotAvailableError(Exception):
    """There is no Prometheus here, and none could be fetched; the text says why."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The two programs."""

    prometheus: Path
    promtool: Path


def find(cache: Path | None = None) -> Tools:
    """Those on PATH, or in the cache, or fetched into it from Debian's or Ubuntu's archive.

    Raises:
        NotAvailableError: none of these.
    """
    on_path = [shutil.which(name) for name in _NAMES]
    if all(on_path):
        return Tools(*(Path(str(path)) for path in on_path))
    folder = (cache or default_cache_dir()) / "prometheus"
    tools = Tools(*(folder / "usr" / "bin" / name for name in _NAMES))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "prometheus.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tools.promtool.exists():
            _fetch(folder)
    return tools


def _fetch(folder: Path) -> None:
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise NotAvailableError("prometheus is not on PATH, and there is no apt-get to fetch it")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="prometheus-") as name:
        work = Path(name)
        if _run([*_APT, "download", "prometheus"], work).returncode:
            _download_with_own_lists(work)
        packages = list(work.glob("prometheus_*.deb"))
        unpacked = work / "unpacked"
        done = _run(["dpkg-deb", "-x", str(packages[0]), str(unpacked)], work)
        if done.returncode:
            raise NotAvailableError(f"cannot unpack {packages[0].name}: {done.stderr.strip()}")
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _download_with_own_lists(work: Path) -> None:
    """For machines whose package lists were never fetched, or are old, without being root."""
    state, cached = work / "state", work / "cache"
    for path in (state / "lists" / "partial", cached / "archives" / "partial"):
        path.mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={state}/lists", "-o", f"Dir::Cache={cached}"]
    _run([*_APT, *options, "update"], work)
    done = _run([*_APT, *options, "download", "prometheus"], work)
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NotAvailableError(f"apt-get cannot download prometheus: {' '.join(why)}")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise NotAvailableError(f"{command[0]} takes longer than {_SECONDS} seconds") from error


def main() -> int:
    """Prints the two paths, or why there are none."""
    try:
        tools = find()
    except NotAvailableError as error:
        print(error, file=sys.stderr)
        return 1
    print(tools.prometheus)
    print(tools.promtool)
    return 0


if __name__ == "__main__":
    sys.exit(main())
