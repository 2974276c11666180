"""Which program listens on a port: for the error of a start that finds it in use."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_LISTENS = "0A"  # the kernel's number for TCP_LISTEN
_ASK_SECONDS = 1.0


def describe_owner(host: str, port: int, proc: Path = Path("/proc")) -> str:
    """``llava-server (pid 7, model demo)``, as much of it as can be found out; else empty."""
    pid, model = find_pid(port, proc), _model(host, port)
    facts = [f"pid {pid}"] if pid else []
    if model is not None:
        return f"llava-server ({', '.join([*facts, f'model {model}'])})"
    if pid is None:
        return ""
    with suppress(OSError):
        facts.append((proc / str(pid) / "comm").read_text().strip())
    return f"another program ({', '.join(facts)})"


def find_pid(port: int, proc: Path = Path("/proc")) -> int | None:
    """The process that listens on a TCP port, where Linux shows it: processes of our user."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port, proc)}
    if not wanted:
        return None
    for folder in proc.glob("[0-9]*/fd"):
        with suppress(OSError):
            for descriptor in folder.iterdir():
                with suppress(OSError):
                    if str(descriptor.readlink()) in wanted:
                        return int(folder.parent.name)
    return None


def _inodes(port: int, proc: Path) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                local = int(fields[1].rpartition(":")[2], 16)
                if local == port and fields[3] == _LISTENS:
                    yield fields[9]


def _model(host: str, port: int) -> str | None:
    """The model of a llava-server there; None where none answers, or it needs a key."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 (to ask there, not to listen)
        host = "127.0.0.1"
    address = f"[{host}]" if ":" in host else host
    # Straight there: a proxy of the environment has no business with it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}:{port}/props", timeout=_ASK_SECONDS) as answer:
            found = json.loads(answer.read(1 << 20))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or "chat_template_name" not in found:
        return None
    return str(found.get("model_alias", "?"))
