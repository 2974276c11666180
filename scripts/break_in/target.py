"""The server that is attacked, the attackers' name server, and the count of what was tried."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from PIL import Image

from server.settings.key_file import entry_of
from tests.live import LiveServer

ALICE, BOB = "llava-alice-7f3a", "llava-bob-91c2"
# Of sizes that nothing else has, by which an answer shows what was read.
PERMITTED, FORBIDDEN = (31, 17), (77, 33)
# Loaded at the start of each Python process of the server, for its PYTHONPATH begins with it.
# Names are answered from a file, each look-up by the next of the name's answers; every look-up and
# every connection is noted; and none leaves this machine.
_NAME_SERVER = """
import json, os, socket, sys

FOLDER = os.environ["BREAK_IN"]

def note(*what):
    with open(os.path.join(FOLDER, "network"), "a") as file:
        file.write(json.dumps(what) + "\\n")

real, asked = socket.getaddrinfo, {}

def getaddrinfo(host, port, *rest, **more):
    with open(os.path.join(FOLDER, "names.json")) as file:
        names = json.load(file)
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name not in names:
        try:
            return real(host, port, *rest, **{**more, "flags": socket.AI_NUMERICHOST})
        except socket.gaierror:
            if name != "localhost":
                raise
            names = {name: [["127.0.0.1"]]}
    number = asked[name] = asked.get(name, -1) + 1
    answers = names[name]
    note("asked", name)
    found = []
    for address in answers[min(number, len(answers) - 1)]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        place = (address, port or 0, 0, 0) if ":" in address else (address, port or 0)
        found.append((family, socket.SOCK_STREAM, 6, "", place))
    return found

def audit(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        note("connected", *arguments[1][:2])
        if not str(arguments[1][0]).startswith("127."):
            raise OSError("nothing leaves this machine")

socket.getaddrinfo = getaddrinfo
sys.addaudithook(audit)
"""


class Attempts:
    """What was tried of one kind, and what of it succeeded."""

    def __init__(self, kind: str, every: int = 1) -> None:
        self.kind = kind
        self.tried = 0
        self.broken: list[str] = []
        self._every = every
        self._seen = 0

    @property
    def due(self) -> bool:
        """Whether the next attempt is to be made."""
        self._seen += 1
        return self._seen % self._every == 0

    def note(self, succeeded: bool, what: object) -> None:
        """One attempt was made."""
        self.tried += 1
        if succeeded:
            self.broken.append(repr(what)[:300])

    @staticmethod
    def permitted(worked: bool, what: object) -> None:
        """What must work, or the attempts show nothing. Raises AssertionError."""
        if not worked:
            raise AssertionError(f"what is permitted fails: {what!r}")


@dataclass(slots=True)
class Target:
    """The server, and where things lie."""

    live: LiveServer
    folder: Path
    root: Path
    names: dict[str, list[list[str]]] = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        parts = urlsplit(self.live.url)
        return parts.hostname or "", parts.port or 0

    def client(self, key: str = "") -> httpx.Client:
        """A client with this key, or none."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.live.url, headers=headers, timeout=60, trust_env=False)

    def raw(self, data: bytes, seconds: float = 0.5) -> bytes:
        """All that comes back for some bytes, until the server closes or says no more."""
        found = b""
        with socket.create_connection(self.address, timeout=10) as line:
            with suppress(OSError):
                line.sendall(data)
            line.settimeout(seconds)
            with suppress(OSError):
                while piece := line.recv(65536):
                    found += piece
        return found

    def exchange(
        self, line: str, headers: Iterable[str] = (), content: bytes = b""
    ) -> tuple[int, bytes]:
        """A request whose first line and headers are sent as they are: status and answer.

        No HTTP client would send most of them. A connection that is closed is status 400.
        """
        rows = [line, "host: x", "connection: close", *headers]
        if content:
            rows += ["content-type: application/json", f"content-length: {len(content)}"]
        head = "\r\n".join([*rows, "", ""]).encode("utf-8", "surrogatepass")
        found = self.raw(head + content, 5.0)
        return (int(found.split(b" ", 2)[1]) if found.startswith(b"HTTP/") else 400), found

    def answer_names(self, names: dict[str, list[list[str]]]) -> None:
        """What the attacker's name server answers from now on."""
        self.names |= names
        fresh = self.folder / "names.new"
        fresh.write_text(json.dumps(self.names), encoding="utf-8")
        fresh.replace(self.folder / "names.json")

    def network(self) -> list[list[object]]:
        """The look-ups and connections since the last call."""
        path = self.folder / "network"
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("", encoding="utf-8")
        return [json.loads(line) for line in lines]

    def check_alive(self) -> None:
        """The server is the same, and serves. Raises AssertionError."""
        with self.client(ALICE) as client:
            Attempts.permitted(client.get("/health/ready").status_code == 200, "/health/ready")
        Attempts.permitted("Traceback" not in self.live.log, "a log without tracebacks")


Kind = Callable[[Target, Attempts], None]


def png(size: tuple[int, int]) -> bytes:
    """A picture of this size."""
    file = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


@contextmanager
def target(folder: Path, *more: str) -> Iterator[Target]:
    """A server for as long as the block runs; ``more`` are flags."""
    root = folder / "pictures"
    (root / "below").mkdir(parents=True)
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(_NAME_SERVER, encoding="utf-8")
    (folder / "names.json").write_text("{}", encoding="utf-8")
    keys = folder / "keys.toml"
    keys.write_text(entry_of("alice", ALICE) + "\n" + entry_of("bob", BOB), encoding="utf-8")
    env = {"PYTHONPATH": str(folder / "hook"), "BREAK_IN": str(folder)}
    flags = ("--api-key-file", str(keys), "--image-root", str(root), "--image-fetch-timeout", "2")
    with LiveServer(folder / "server", *flags, "--parallel", "2", *more, env=env) as live:
        yield Target(live, folder, root)
