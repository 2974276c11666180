"""Other people's clients against a live server on the demo model: ``make test-clients``.

Each group of clients gets an environment of its own in the cache folder, from its own lock, and
is kept there until the lock changes. ``--heavy`` adds the clients that bring torch (7 GB, from
``heavy.in``) and promptfoo (0.6 GB). Python 3.11 and Node 20 are needed. Nothing is skipped: what
cannot be installed fails.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests" / "clients"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from asking import RED, shape  # noqa: E402 - the tests' own, found by the line above
from live import LiveServer  # noqa: E402

from server.settings.server import default_cache_dir  # noqa: E402

PYTHON_GROUPS = ("recent", "openai2", "agents", "evaluation")
# With torch, so only where --heavy asks for it.
HEAVY = "heavy"
PROMPTFOO = "promptfoo"
# So that no client tells anyone of its use, or asks the network for anything.
QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "AI_SDK_LOG_WARNINGS": "false",
    "OPENAI_API_KEY": "unused",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
    "ANTHROPIC_API_KEY": "unused",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "PROMPTFOO_DISABLE_UPDATE": "1",
    "PROMPTFOO_CACHE_ENABLED": "false",
}


def environment(name: str, *parts: Path) -> Path:
    """The folder of an environment, named after all that goes into it."""
    digest = hashlib.sha256(sys.version.encode())
    for part in parts:
        digest.update(part.read_bytes())
    return default_cache_dir() / "clients" / f"{name}-{digest.hexdigest()[:16]}"


def python_environment(group: str) -> Path:
    """A virtual environment with the group's clients; returns its Python."""
    lock = HERE / (f"{group}.in" if group == HEAVY else f"{group}.lock")
    folder = environment(group, lock)
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print(f"installing {group} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
        pip += ["--disable-pip-version-check"]
        # Older ones try releases that a lock with extras does not name, and give up.
        subprocess.run([*pip, "pip>=25"], check=True)
        hashes = [] if group == HEAVY else ["--require-hashes"]
        subprocess.run([*pip, *hashes, "-r", lock], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def node_environment(group: str) -> Path:
    """A folder with Node clients and their tests; the heavy ones have no lock."""
    source = HERE / group
    lock = source / "package-lock.json"
    folder = environment(group, source / "package.json", *([lock] if lock.exists() else []))
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    if not (folder / "ready").exists():
        print(f"installing {group} into {folder}", flush=True)
        # Without a lock come packages whose scripts fetch browsers and compile databases.
        how = ["ci"] if lock.exists() else ["install", "--ignore-scripts", "--omit=optional"]
        command = ["npm", *how, "--no-audit", "--no-fund", "--silent"]
        subprocess.run(command, cwd=folder, check=True)
        (folder / "ready").touch()
    return folder


def main() -> int:
    """Run all groups; the exit code says whether all of them passed."""
    start = time.monotonic()
    heavy = [word for word in sys.argv if word == "--heavy"]
    arguments = [word for word in sys.argv[1:] if word not in heavy]
    groups = [*PYTHON_GROUPS, *([HEAVY] if heavy else [])]
    pythons = {group: python_environment(group) for group in groups}
    nodes = {group: node_environment(group) for group in ("node", *([PROMPTFOO] if heavy else []))}
    installed = time.monotonic()
    folder = default_cache_dir() / "clients" / "run"
    results: dict[str, int] = {}
    with LiveServer(folder) as server:
        picture = folder / "circle.png"
        shape("circle", RED).save(picture)
        environ = {**os.environ, **QUIET}
        environ |= {"LLAVA_TEST_URL": server.url, "LLAVA_TEST_PICTURE": str(picture)}
        for group, python in pythons.items():
            command = [python, "-m", "pytest", "-c", HERE / "pytest.ini", HERE / group]
            command += ["--confcutdir", HERE, *arguments]
            results[group] = subprocess.run(command, check=False, env=environ, cwd=HERE).returncode
        for group, node in nodes.items():
            results[group] = subprocess.run(
                ["node", "--test", "--test-reporter=spec"], check=False, env=environ, cwd=node
            ).returncode
    took, setup = time.monotonic() - installed, installed - start
    print(f"installing took {setup:.0f} s, testing {took:.0f} s: {results}")
    return max(results.values())


if __name__ == "__main__":
    sys.exit(main())
