"""The llava-server command as a process: what it prints, where, and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from server import __version__
from server.cli import main as cli
from server.errors import StartupError
from server.hub import catalogue
from server.settings.key_file import digest_of, read_keys

ROOT = Path(__file__).resolve().parents[1]


def llava(*line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("LLAVA_")},
        "PYTHONWARNINGS": "error",
        "COLUMNS": "200",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "server", *line],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_version_and_help() -> None:
    done = llava("--version")
    assert (done.returncode, done.stdout) == (0, f"llava-server {__version__}\n")
    done = llava("serve", "--help")
    assert done.returncode == 0
    for part in ("--n-gpu-layers", "--help-all", "(default: 8000)", "examples:", "beats"):
        assert part in done.stdout
    assert "--stall-timeout" not in done.stdout, "the everyday settings alone"
    assert len(done.stdout.splitlines()) <= 50, "one screen"
    assert done.stderr == ""
    done = llava("serve", "--help-all")
    assert done.returncode == 0
    for part in ("--stall-timeout", "Pictures:", "(default: 8000)", "examples:", "beats"):
        assert part in done.stdout


@pytest.mark.parametrize("line", [["--version"], ["--help"], ["key", "--help"]])
def test_what_needs_no_settings_does_not_import_them(line: list[str]) -> None:
    """They take half a second of processor time."""
    code = (
        "import sys, server.cli.main as cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'pydantic', 'numpy', 'huggingface_hub', 'fastapi', 'gguf'} & sys.modules.keys()\n"
        "print('heavy:', *heavy)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *line], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_without_a_command_the_help_is_shown() -> None:
    done = llava()
    assert (done.returncode, done.stdout) == (2, "")
    assert "serve a model" in done.stderr


@pytest.mark.parametrize(
    ("line", "variables", "code", "words"),
    [
        (("serve", "--port", "99999"), {}, 2, "--port: "),
        (("serve", "--model", "/nowhere.gguf"), {}, 2, "no such file: /nowhere.gguf"),
        (("sevre",), {}, 2, "invalid choice: 'sevre'"),
        (("pull", "llava-1.5-7b"), {"LLAVA_OFFLINE": "1"}, 1, "missing: ggml-model-q4_k.gguf"),
        (("pull", "hf:us/tiny"), {"HF_HUB_OFFLINE": "1"}, 1, "the server is offline"),
    ],
)
def test_a_failure_is_one_line(
    line: tuple[str, ...], variables: dict[str, str], code: int, words: str, tmp_path: Path
) -> None:
    done = llava(*line, HF_HOME=str(tmp_path), **variables)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.startswith("llava-server: error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "variables", "words"),
    [
        (("serve", "--portt", "1"), {}, "unknown argument --portt; did you mean --port?"),
        (("serve",), {"LLAVA_PORT": "x"}, "LLAVA_PORT: "),
        (("serve",), {"LLAVA_TYPO": "x"}, "LLAVA_TYPO: no such setting"),
        (("serve", "--chat-template", "vicunia"), {}, "--chat-template: 'vicunia' is neither"),
        (("serve", "--chat-template-file", "/x"), {}, "--chat-template-file: cannot read /x"),
        (("pull", "llava-1.5"), {}, "did you mean llava-1.5-"),
        (("pull", "nosuch"), {}, "error: nosuch is neither a file nor a known model"),
        (("plan", "nosuch"), {}, "error: nosuch is neither a file nor a known model"),
        (("serve", "--gpu", "1"), {}, "did you mean --n-gpu-layers?"),
        (("serve", "--help-al"), {}, "did you mean --help-all?"),
        (("serve", "demo", "-m", "other"), {}, "MODEL is demo, --model is other"),
        (("serve", "/nowhere.gguf"), {}, "no such file: /nowhere.gguf"),
    ],
)
def test_a_wrong_word_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: tuple[str, ...],
    variables: dict[str, str],
    words: str,
) -> None:
    """Told before anything is loaded, so these need no process of their own."""
    # It would write to what stands for standard error here, and to nothing after this test.
    monkeypatch.setattr("server.serve.startup_messages.begin", lambda *_: None)
    for name in [name for name in os.environ if name.startswith("LLAVA_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    try:
        code = cli.main(line)
    except SystemExit as end:  # as argparse ends
        code = int(end.code or 0)
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert told.err.startswith("llava-server: error: ")
    assert words in told.err
    assert told.err.count("\n") == 1


def test_output_that_nobody_reads_is_no_traceback() -> None:
    for command in (["list"], ["plan", "demo"]):
        done = subprocess.Popen(
            [sys.executable, "-m", "server", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.stdout is not None
        done.stdout.close()
        _, errors = done.communicate(timeout=60)
        assert (done.returncode, errors) == (1, "")


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "server", "list"],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "llava-server: error: cannot write: No space left on device\n"


def test_list_tells_what_is_here(tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--mys--ggml_bakllava-1"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c0ffee")
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for name in ("ggml-model-q4_k.gguf", "mmproj-model-f16.gguf"):
        (snapshot / name).touch()
    done = llava("list", HF_HOME=str(tmp_path))
    assert done.returncode == 0
    rows = {line.split()[0]: line.split()[3] for line in done.stdout.splitlines()[1:]}
    assert list(rows) == list(catalogue.load())
    assert rows["bakllava-1"] == "yes"
    assert rows["llava-1.5-7b"] == "no"


def test_pull_prints_where_the_files_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    assert cli.main(["pull", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"


def test_a_key_is_shown_once_and_its_entry_lets_it_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["key", "alice"]) == 0
    shown = capsys.readouterr()
    key = shown.err.split()[-1]
    assert key not in shown.out, "what goes into the file holds no key"
    file = tmp_path / "keys.toml"
    file.write_text(shown.out)
    (entry,) = read_keys(file)
    assert (entry.name, entry.digest) == ("alice", digest_of(key.encode()))
    assert cli.main(["key", "no such name"]) == 2
    assert "letters, digits" in capsys.readouterr().err


def made(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.split()[-1]


def test_keys_are_added_rotated_replaced_listed_and_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("# our clients\n")
    file.chmod(0o640)
    line = ("--file", str(file))

    def valid() -> list[tuple[str, bytes]]:
        return [(key.name, key.digest) for key in read_keys(file)]

    keys = []
    for name in ("bob", "alice"):
        assert cli.main(["key", name, *line]) == 0
        keys.append(digest_of(made(capsys).encode()))
    bob, old = keys
    with file.open("a") as more:
        more.write('rate-limit = "60/minute"  # hers\n')
    assert cli.main(["key", "alice", *line]) == 2
    assert "--rotate" in capsys.readouterr().err
    assert cli.main(["key", "alice", *line, "--rotate"]) == 0
    second = digest_of(made(capsys).encode())
    assert valid() == [("bob", bob), ("alice", old), ("alice", second)]
    assert cli.main(["key", "alice", *line, "--rotate"]) == 0
    third = digest_of(made(capsys).encode())
    assert valid() == [("bob", bob), ("alice", second), ("alice", third)]
    assert cli.main(["key", "alice", *line, "--replace"]) == 0
    last = digest_of(made(capsys).encode())
    assert valid() == [("bob", bob), ("alice", last)]
    text = file.read_text()
    assert text.startswith("# our clients\n")
    assert 'rate-limit = "60/minute"  # hers\n' in text
    assert cli.main(["key", "list", *line]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [row.split()[:3] for row in shown[1:]] == [
        ["bob", "1", "-"],
        ["alice", "1", "60/minute"],
    ]
    assert cli.main(["key", "remove", "bob", *line]) == 0
    assert valid() == [("alice", last)]
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("list",), "name the file of keys"),
        (("alice", "--replace"), "need --file"),
        (("remove", "--file", "{}"), "say whose"),
        (("remove", "carol", "--file", "{}"), "no key of carol"),
        (("alice", "bob"), "one name at a time"),
        (("inline", "--file", "{}", "--replace"), "edit the file"),
        (("alice", "--replce"), "did you mean --replace?"),
    ],
)
def test_what_cannot_be_done_with_keys_is_one_line(
    line: tuple[str, ...],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LLAVA_API_KEY_FILE", raising=False)
    file = tmp_path / "keys.toml"
    file.write_text(f'inline = {{ hash = "sha256:{"0" * 64}" }}\n')
    assert cli.main(["key", *(word.format(file) for word in line)]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.err.count("\n") == 1
    assert len(read_keys(file)) == 1


def test_exit_codes_of_what_stops_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults: list[BaseException] = [StartupError("the port is taken"), KeyboardInterrupt()]

    def stopped(_options: object) -> int:
        raise faults.pop(0)

    monkeypatch.setattr(cli, "_list", stopped)
    assert cli.main(["list"]) == 1
    assert capsys.readouterr().err == "llava-server: error: the port is taken\n"
    assert cli.main(["list"]) == 130
    assert capsys.readouterr().err == ""


def test_the_web_process_starts_without_llama_cpp() -> None:
    code = (
        "import sys, server.cli.main, server.serve.web_process; print('llama_cpp' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
