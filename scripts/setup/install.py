"""The setup's steps in order, and the stamp that lets the next run skip them."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.setup.machine import (
    BACKENDS,
    cache_dir,
    cpu_flags,
    default_backend,
    options_digest,
)
from scripts.setup.progress import PackagesProgress
from scripts.setup.run import SetupError, locked, run, say
from scripts.setup.wheel import provide, split_lock
from server.settings.hardware import has_nvidia_card

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
from _signal import SIG_DFL, SIGINT, signal

signal(SIGINT, SIG_DFL)

import sys

from server.cli.main import main

sys.exit(main())
"""


def digest(text: str) -> str:
    """A short fingerprint."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Setup:
    """One checkout's environment: what is wanted of it, and how far it is."""

    def __init__(
        self, root: Path, environ: Mapping[str, str], *, backend: str | None, dev: bool
    ) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.stamp_file = self.venv / "llava-setup.json"
        self.dev = dev
        self.installed = self._read_stamp()
        # Not named means: as it is. `make serve` keeps what `make setup BACKEND=cuda` made.
        kept = self.installed.get("backend")
        self.backend = backend or kept or default_backend()
        self.environ = dict(environ)
        if self.backend == kept and "CMAKE_ARGS" not in environ and self.installed.get("cmake"):
            self.environ["CMAKE_ARGS"] = self.installed["cmake"]
        self.logs = cache_dir(environ) / "logs" / digest(str(root))

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.venv / "bin" / "python"

    def wanted(self) -> dict[str, str]:
        """What the stamp must say for nothing to be left to do."""
        facts = {
            "backend": self.backend,
            "cmake": self.environ.get("CMAKE_ARGS", ""),
            "cpu": digest(cpu_flags()),
            "options": options_digest(),
            "launcher": digest(LAUNCHER),
            "root": str(self.root),
            "runtime": digest(self._lock("requirements.lock")),
        }
        if self.dev:
            facts["dev"] = digest(self._lock("requirements-dev.lock"))
        return facts

    def done(self) -> bool:
        """Whether the environment is as wanted."""
        return self.wanted().items() <= self.installed.items() and self.python.exists()

    def perform(self) -> None:
        """Bring the environment to what is wanted, one setup at a time."""
        with locked(self.logs / "lock", "another setup of this checkout runs; waiting for it"):
            self.installed = self._read_stamp()
            if self.done():
                return
            started = time.monotonic()
            facts = self.wanted()
            self._make_venv()
            rest, llama = split_lock(self._lock("requirements.lock"))
            locks = facts.keys() & {"runtime", "dev"}
            if any(facts[name] != self.installed.get(name) for name in locks):
                if self.dev:
                    rest, _ = split_lock(self._lock("requirements-dev.lock"))
                self._install_locked(rest)
            self._install_llama(llama, facts)
            self._link_project()
            self._write_stamp({**self.installed, **facts})
            say(f"ready after {time.monotonic() - started:.0f} s, llama.cpp for {self.backend}")
            if self.backend == "cpu" and has_nvidia_card():
                say(
                    "an NVIDIA card is here, but llama.cpp is built for the processor:"
                    " `make setup BACKEND=cuda` builds it for the card"
                )

    def _make_venv(self) -> None:
        if (
            self.python.exists()
            # Python itself is there long before pip is.
            and not subprocess.run(
                [self.python, "-c", "import pip"], check=False, stderr=subprocess.DEVNULL
            ).returncode
        ):
            return
        say(f"making {self.venv} with Python {sys.version.split()[0]}")
        self.installed = {}
        command: list[str | Path] = [sys.executable, "-m", "venv", "--clear", self.venv]
        run("making the virtual environment", command, self.logs / "venv.log", self.environ)

    def _install_locked(self, requirements: str) -> None:
        say(f"installing the locked packages{' and what tests need' if self.dev else ''}")
        file = self.venv / "llava-requirements.txt"
        # Of a package that was being unpacked when pip was stopped pip sees no more than its name,
        # and takes it for installed.
        begun = self.venv / "llava-installing"
        again = ["--force-reinstall"] if begun.exists() else []
        begun.touch()
        file.write_text(requirements, encoding="utf-8")
        command: list[str | Path] = [
            self.python,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--require-hashes",
            *again,
            "-r",
            file,
        ]
        count = len(re.findall(r"(?m)^[A-Za-z0-9]", requirements))
        progress = PackagesProgress(sys.stdout, "setup: packages", count)
        log = self.logs / "packages.log"
        try:
            run("installing packages", command, log, self.environ, progress.feed)
        finally:
            progress.close()
        begun.unlink()

    def _install_llama(self, entry: str, facts: Mapping[str, str]) -> None:
        names = ("backend", "cmake", "options", "cpu", "runtime")
        if all(facts[name] == self.installed.get(name) for name in names):
            return
        wheel = provide(self.python, entry, self.backend, self.environ)
        command: list[str | Path] = [
            self.python,
            "-m",
            "pip",
            "install",
            "--no-deps",
            "--no-index",
            "--force-reinstall",
            wheel,
        ]
        run("installing llama.cpp", command, self.logs / "llama.log", self.environ)

    def _link_project(self) -> None:
        """Let the environment find the checkout; no build backend is needed for that."""
        question = "import sysconfig; print(sysconfig.get_path('purelib'))"
        output = run(
            "asking Python", [self.python, "-c", question], self.logs / "link.log", self.environ
        )
        (Path(output.strip()) / "llava-server.pth").write_text(f"{self.root}\n", encoding="utf-8")
        launcher = self.venv / "bin" / "llava-server"
        launcher.write_text(LAUNCHER.format(python=self.python), encoding="utf-8")
        launcher.chmod(0o755)

    def _lock(self, name: str) -> str:
        try:
            return (self.root / name).read_text(encoding="utf-8")
        except OSError as error:
            raise SetupError(f"{name}: {error.strerror}; this checkout is incomplete") from None

    def _read_stamp(self) -> dict[str, Any]:
        try:
            stamp: dict[str, Any] = json.loads(self.stamp_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stamp

    def _write_stamp(self, stamp: Mapping[str, Any]) -> None:
        partial = self.stamp_file.with_suffix(".partial")
        partial.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        partial.replace(self.stamp_file)


def main(argv: Sequence[str]) -> int:
    """Set up this checkout; the returned number is the exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m scripts.setup", description=__doc__)
    parser.add_argument("--backend", choices=list(BACKENDS), help="what llama.cpp is built for")
    parser.add_argument("--dev", action="store_true", help="also install what tests need")
    options = parser.parse_args(argv)
    try:
        setup = Setup(ROOT, os.environ, backend=options.backend, dev=options.dev)
        if not setup.done():
            setup.perform()
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends now, without a traceback
        print("setup: stopped; run it again to finish", file=sys.stderr)
        return 130
    return 0
