"""The setup's logic without a build: keys, commands, progress, explanations, stamps, locks."""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tomli

from scripts.setup import install, machine, wheel
from scripts.setup.__main__ import supported
from scripts.setup.explain import cause, failure
from scripts.setup.progress import PackagesProgress, Progress, left, parse
from scripts.setup.run import SetupError, locked, run

ROOT = Path(__file__).resolve().parents[1]
LLAMA = "llama-cpp-python==1.2.3 \\\n    --hash=sha256:aa\n"
LOCK = (
    f"jinja2==3.1.6 \\\n    --hash=sha256:bb\n{LLAMA}"
    "numpy==2.2.6 ; python_full_version < '3.11' \\\n    --hash=sha256:cc\n"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_read_from_ninja_and_make() -> None:
    assert parse("  [57/193] Building CXX object ggml/x.cpp.o\n") == (57, 193)
    assert parse("[ 42%] Building CXX object x\n") == (42, 100)
    assert parse("*** Building project with Ninja...") is None
    assert parse("warning: array[3] [1/2]") is None


def test_progress_on_a_terminal_rewrites_its_line() -> None:
    stream = Terminal()
    progress = Progress(stream, "building llama.cpp")
    for now, line in ((0.0, "[1/193] a"), (60.0, "[57/193] b"), (61.0, "noise")):
        progress.feed(line, now)
    progress.close()
    assert stream.getvalue() == (
        "\r\x1b[Kbuilding llama.cpp 1/193\r\x1b[Kbuilding llama.cpp 57/193, 2 min left\n"
    )


def test_progress_elsewhere_is_a_line_now_and_then() -> None:
    stream = io.StringIO()
    progress = Progress(stream, "building")
    for second in range(1, 31):
        progress.feed(f"[{second}/30] x", float(second))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split()[1].rstrip(",") for line in lines] == ["1/30", "11/30", "21/30", "30/30"]
    assert lines[1].endswith("20 s left")


def test_time_left_in_words() -> None:
    assert [left(seconds) for seconds in (1, 33, 59, 100, 260)] == [
        "5 s left", "35 s left", "60 s left", "2 min left", "4 min left",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage", "apt install build-"),
        ("No CMAKE_C_COMPILER could be found.", "apt install build-"),
        ("The virtual environment was not created as ensurepip is not available.", "python3-venv"),
        ("  CUDA Toolkit not found", "make setup BACKEND=cpu"),
        ("Could NOT find Vulkan (missing: Vulkan_LIBRARY glslc)", "libvulkan-dev"),
        ("By not providing hip-config.cmake", "ROCM_PATH"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "PARALLEL_LEVEL=1"),
        ("Temporary failure in name resolution", "index cannot be reached"),
        ("ERROR: No matching distribution found for x", "index cannot be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", "differs from the locked one"),
        ("CMake 3.21 or higher is required.  You are running version 3.10", "no usable CMake"),
        ("something never seen", "see its last lines"),
    ],
)
def test_failures_are_explained(output: str, words: str) -> None:
    assert words in cause(output)


def test_a_failure_shows_the_log_and_its_end(tmp_path: Path) -> None:
    output = "\n".join(f"line {number}" for number in range(50))
    text = failure("the build", output, tmp_path / "build.log")
    assert text.startswith("the build failed: ")
    assert f"log: {tmp_path}/build.log" in text
    assert text.endswith("| line 49")
    assert "line 40" not in text
    text = failure("the build", f"{output}\n  error: subprocess-exited-with-error\npip\n", tmp_path)
    assert text.endswith("| line 49")


def test_a_step_that_fails_raises_with_its_log(tmp_path: Path) -> None:
    lines: list[str] = []
    code = "import sys; print('one'); print('No space left on device'); sys.exit(3)"
    with pytest.raises(SetupError, match=r"a step failed: the disk is full[\s\S]*\| one"):
        run("a step", [sys.executable, "-c", code], tmp_path / "a.log", os.environ, lines.append)
    assert lines == ["one\n", "No space left on device\n"]
    assert (tmp_path / "a.log").read_text() == "".join(lines)


def test_backends_and_ones_own_options() -> None:
    assert machine.cmake_args("cuda", {}) == "-DGGML_CUDA=ON -DGGML_RPC=ON"
    own = {"CMAKE_ARGS": "-DCMAKE_CUDA_ARCHITECTURES=90"}
    assert (
        machine.cmake_args("cuda", own)
        == "-DGGML_CUDA=ON -DGGML_RPC=ON -DCMAKE_CUDA_ARCHITECTURES=90"
    )
    assert machine.default_backend() in machine.BACKENDS
    environ = wheel.build_environ("rocm", {"PATH": "/bin", "CMAKE_BUILD_PARALLEL_LEVEL": "1"})
    *less, backend, rpc = shlex.split(environ["CMAKE_ARGS"])
    assert (backend, rpc) == ("-DGGML_HIP=ON", "-DGGML_RPC=ON")
    assert less == [
        f"-DCMAKE_PROJECT_{project}_INCLUDE={machine.LESS_WORK}"
        for project in ("llama_cpp", "llama.cpp")
    ]
    assert environ["CMAKE_BUILD_PARALLEL_LEVEL"] == "1"


def test_the_cache_key_tells_machines_and_options_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    key = machine.wheel_key("1.2.3", "cpu", {})
    assert key.startswith(f"1.2.3-cpu-{sys.platform}-")
    assert machine.wheel_key("1.2.3", "cpu", {"PATH": "/elsewhere"}) == key
    assert machine.wheel_key("1.2.3", "cpu", {"CMAKE_ARGS": "-DGGML_NATIVE=OFF"}) != key
    monkeypatch.setattr(machine, "cpu_flags", lambda: "fpu avx512f")
    assert machine.wheel_key("1.2.3", "cpu", {}) != key


def test_what_the_build_leaves_out_is_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key, options = machine.wheel_key("1.2.3", "cpu", {}), machine.options_digest()
    other = tmp_path / "llama.cmake"
    other.write_text("# nothing is left out")
    monkeypatch.setattr(machine, "LESS_WORK", other)
    assert machine.wheel_key("1.2.3", "cpu", {}) != key
    assert machine.options_digest() != options


def test_the_cache_folder() -> None:
    assert machine.cache_dir({"LLAVA_CACHE_DIR": "/a"}) == Path("/a")
    assert machine.cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/llava-server")
    assert machine.cache_dir({}) == Path.home() / ".cache" / "llava-server"


def test_the_lock_is_divided() -> None:
    rest, llama = wheel.split_lock(LOCK)
    assert llama == LLAMA
    assert "llama" not in rest
    assert rest.count("==") == 2
    assert wheel.locked_version(llama) == "1.2.3"
    with pytest.raises(SetupError, match="run `make lock`"):
        wheel.split_lock(rest)


def test_the_build_is_refused_at_once_without_a_compiler(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no C\+\+ compiler was found\. Install one"):
        wheel.check_tools("cpu", {"PATH": str(tmp_path)})


def test_a_wheel_is_built_once_and_moved_in_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[list[str]] = []

    def fake_run(_step: str, command: list[Any], log: Path, environ: Any, _on_line: Any) -> str:
        built.append([str(part) for part in command])
        requirement = Path(command[command.index("--requirement") + 1])
        assert requirement.read_text() == LLAMA
        assert environ["CMAKE_ARGS"].endswith(" -DGGML_METAL=OFF -DGGML_RPC=ON")
        (Path(command[-1]) / "llama-1.2.3-py3-none-any.whl").write_text("wheel")
        return ""

    monkeypatch.setattr(wheel, "run", fake_run)
    monkeypatch.setattr(wheel, "check_tools", lambda *_: None)
    environ = {"LLAVA_CACHE_DIR": str(tmp_path)}
    first = wheel.provide(Path("python"), LLAMA, "cpu", environ)
    assert first.read_text() == "wheel"
    assert wheel.provide(Path("python"), LLAMA, "cpu", environ) == first
    assert len(built) == 1
    assert "--require-hashes" in built[0]
    assert "--no-cache-dir" in built[0], "pip's cache knows nothing of CMake options"
    assert [path.name for path in first.parent.parent.glob("*.lock")] == [
        f"{first.parent.name}.lock"
    ]
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose steps only note that they ran."""
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "requirements-dev.lock").write_text(LOCK + "pytest==9.2.0\n")
    done: list[str] = []

    def note(name: str) -> Any:
        return lambda *_args, **_kwargs: done.append(name)

    def make_venv(setup: install.Setup) -> None:
        setup.python.parent.mkdir(parents=True, exist_ok=True)
        setup.python.touch()

    monkeypatch.setattr(install.Setup, "_make_venv", make_venv)
    monkeypatch.setattr(install.Setup, "_install_locked", note("packages"))
    monkeypatch.setattr(install.Setup, "_link_project", note("link"))
    monkeypatch.setattr(install, "provide", note("wheel"))
    monkeypatch.setattr(install, "run", note("run"))
    monkeypatch.setattr(install, "done", done, raising=False)
    return tmp_path


def steps(
    root: Path, backend: str | None = None, *, dev: bool = False, **environ: str
) -> list[str]:
    environ.setdefault("LLAVA_CACHE_DIR", str(root / "cache"))
    setup = install.Setup(root, environ, backend=backend, dev=dev)
    if not setup.done():
        setup.perform()
    done: list[str] = install.done  # type: ignore[attr-defined]
    result = [name for name in done if name in {"packages", "wheel"}]
    done.clear()
    return result


def test_only_what_changed_is_done_again(checkout: Path) -> None:
    assert steps(checkout, "cpu") == ["packages", "wheel"]
    assert steps(checkout, "cpu") == []
    assert steps(checkout, dev=True) == ["packages"]
    assert steps(checkout) == []
    assert steps(checkout, "cuda") == ["wheel"]
    assert steps(checkout) == [], "a backend once chosen stays"
    assert steps(checkout, "cpu", dev=True) == ["wheel"]
    (checkout / "requirements.lock").write_text(LOCK.replace("3.1.6", "3.1.7"))
    assert steps(checkout) == ["packages", "wheel"]
    (checkout / ".venv" / "bin" / "python").unlink()
    assert install.Setup(checkout, {}, backend=None, dev=False).done() is False


def test_ones_own_cmake_options_stay_until_others_are_given(checkout: Path) -> None:
    steps(checkout, "cuda", CMAKE_ARGS="-DX=1")
    assert steps(checkout) == []
    assert steps(checkout, CMAKE_ARGS="-DX=2") == ["wheel"]
    assert install.Setup(checkout, {}, backend=None, dev=False).wanted()["cmake"] == "-DX=2"
    assert install.Setup(checkout, {}, backend="cpu", dev=False).wanted()["cmake"] == ""


def test_another_processor_gets_its_own_build(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(checkout)
    monkeypatch.setattr(install, "cpu_flags", lambda: "another")
    assert steps(checkout) == ["wheel"]


def test_a_broken_stamp_or_lock(checkout: Path) -> None:
    steps(checkout)
    (checkout / ".venv" / "llava-setup.json").write_text("{")
    assert steps(checkout) == ["packages", "wheel"]
    (checkout / "requirements.lock").unlink()
    with pytest.raises(SetupError, match=r"requirements\.lock: No such file"):
        steps(checkout)


def test_two_setups_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock", "waiting"):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path / "lock", "waiting"):
        thread.start()
        while "waiting" not in capsys.readouterr().out:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_launcher_works_from_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    launcher = folder / "llava-server"
    launcher.write_text(install.LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [launcher, "--version"], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout.startswith("llava-server ")


def test_supported_pythons() -> None:
    assert [supported((3, minor)) for minor in (9, 10, 13, 14)] == [False, True, True, False]


def test_the_locks_fit_the_project_and_each_other() -> None:
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = (ROOT / "requirements.lock").read_text()
    dev = (ROOT / "requirements-dev.lock").read_text()
    extra = project["optional-dependencies"]["dev"]
    for lock, names in ((runtime, project["dependencies"]), (dev, project["dependencies"] + extra)):
        for name in names:
            assert re.search(rf"^{re.split('[<>=;[]', name)[0]}==", lock, re.MULTILINE), name
    entries = re.split(r"(?m)^(?=[a-z])", runtime)[1:]
    assert all("--hash=sha256:" in entry for entry in entries)
    missing = [entry.split()[0] for entry in entries if entry.split(" ")[0] not in dev]
    assert missing == [], "make lock"
    assert not re.search(r"https?:|--index|--find-links", runtime + dev)
    pin = next(name for name in project["dependencies"] if name.startswith("llama-cpp-python"))
    assert wheel.split_lock(runtime)[1].startswith(f"{pin} ")


def test_make_alone_lists_the_targets() -> None:
    environ = {**os.environ, "MAKEFLAGS": ""}
    done = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, check=True, env=environ
    )
    for target in (
        "setup",
        "serve",
        "test",
        "lint",
        "check",
        "bench",
        "eval-demo",
        "lock",
        "clean",
    ):
        assert f"make {target} " in done.stdout


def test_make_serve_hands_over_what_was_named() -> None:
    # Run by make itself, as in `make test`, it would say which directory it enters and leaves.
    environ = {**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0", "HOST": "from-the-shell"}
    line = ["make", "-n", "serve", "MODEL=a b.gguf", "PORT=9", "ARGS=--parallel 8", "BACKEND=cuda"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True, env=environ)
    assert "-m scripts.setup --backend cuda" in done.stdout
    assert flags_of(done.stdout) == ["--model", "a b.gguf", "--port", "9", "--parallel", "8"]
    assert done.stderr == ""


def flags_of(printed: str) -> list[str]:
    """What the shell makes of the last line that make would run."""
    return shlex.split(printed.partition("llava-server serve ")[2])


@pytest.mark.parametrize("name", ["a$b.gguf", "it's.gguf", 'a"b.gguf', "a$(x) `y`.gguf"])
def test_make_hands_over_a_file_s_name_as_it_is(name: str) -> None:
    done = make("-n", "serve", f"MODEL={name}", "ARGS=--alias '$x'")
    assert flags_of(done.stdout) == ["--model", name, "--alias", "$x"]


def test_make_in_another_folder_serves_a_file_of_the_one_it_was_started_in(tmp_path: Path) -> None:
    away = tmp_path / "it's here"
    away.mkdir()
    line = ["make", "-n", "-C", str(ROOT), "serve", "MODEL=x.gguf"]
    environ = {**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0", "PWD": str(away)}
    done = subprocess.run(
        line, cwd=away, capture_output=True, text=True, check=True, env=environ
    ).stdout
    command = next(one for one in done.splitlines() if "llava-server" in one)
    server = f"{ROOT}/.venv/bin/llava-server"
    expected = ["cd", str(away), "&&", "exec", server, "serve", "--model", "x.gguf"]
    assert shlex.split(command) == expected
    assert "cd " not in make("-n", "serve").stdout


def test_make_warns_of_a_variable_that_means_nothing() -> None:
    assert "MODLE= means nothing here" in make("-n", "serve", "MODLE=x").stderr


def test_picked_tests_run_alone_without_lint_and_coverage() -> None:
    picked = make("-n", "test", "TESTS=tests/test_x.py -k 'a or b'").stdout
    assert picked.rstrip().endswith("-m pytest  tests/test_x.py -k 'a or b'")
    assert "ruff" not in picked
    assert "--cov" in make("-n", "test").stdout


def make(*line: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0"}
    return subprocess.run(
        ["make", *line], cwd=ROOT, capture_output=True, text=True, check=True, env=environ
    )


def test_ctrl_c_in_a_step_is_no_failure_of_make(tmp_path: Path) -> None:
    """As a terminal does, to all processes at once."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "__init__.py").touch()
    (tmp_path / "scripts" / "setup.py").write_text(
        "import sys, time\n"
        "try:\n"
        "    print('begun', flush=True)\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    shutil.copy(ROOT / "Makefile", tmp_path)
    process = subprocess.Popen(
        ["make", "serve", f"PYTHON={sys.executable}"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert rest == "", "no Error 130, and the server is not started"
    assert process.returncode == -signal.SIGINT


def broken_venv(root: Path) -> install.Setup:
    """An environment as Ctrl-C leaves it while it is made: its Python works, pip is missing."""
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    return install.Setup(root, {"LLAVA_CACHE_DIR": str(root / "cache")}, backend="cpu", dev=False)


def test_an_environment_without_pip_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Any] = []
    monkeypatch.setattr(install, "run", lambda *args: commands.append(args[1]))
    setup = broken_venv(tmp_path)
    assert subprocess.run([setup.python, "-c", ""], check=False).returncode == 0
    setup._make_venv()
    assert [command[1:3] for command in commands] == [["-m", "venv"]]


def test_packages_that_were_being_unpacked_are_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Any] = []

    def stopped(*args: Any) -> str:
        commands.append(args[1])
        if len(commands) == 1:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(install, "run", stopped)
    setup = broken_venv(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        setup._install_locked("jinja2==3\n")
    setup._install_locked("jinja2==3\n")
    setup._install_locked("jinja2==3\n")
    assert ["--force-reinstall" in command for command in commands] == [False, True, False]


def test_progress_of_packages() -> None:
    stream = io.StringIO()
    progress = PackagesProgress(stream, "packages", 3)
    lines = ("Collecting a==1", "  Downloading a.whl", "Requirement already satisfied: b==1 in x")
    for second, line in enumerate((*lines, "Collecting c==1", "Installing collected packages: a")):
        progress.feed(f"{line}\n", 20.0 * second)
    progress.close()
    assert stream.getvalue().splitlines() == [
        *("packages 1/3", "packages 2/3", "packages 3/3", "packages: unpacking them"),
    ]
