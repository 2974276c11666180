"""Files beside --image-root, and addresses that no picture may be fetched from."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import httpx

from scripts.break_in.target import ALICE, FORBIDDEN, PERMITTED, Attempts, Target, png, target

_EXCHANGES = 300


def _inspect(client: httpx.Client, url: str) -> httpx.Response:
    return client.post("/v1/images/inspect", json={"url": url})


def _ways_out(root: Path, secret: Path) -> Iterator[str]:
    """Spellings of a file: URL that might end outside of ``root``."""
    up = os.path.relpath(secret, root)
    outside = [
        str(secret),
        f"{root}/{up}",
        f"{root}/below/../{up}",
        f"{root}//{up}",
        f"{root}/./{up}",
    ]
    outside += [f"{root}/nothing/../{up}", f"{root}/good.png/../{up}", up, f"/{up}"]
    outside += [f"{root}/out.png", f"{root}/way/secret.png", f"{root}/below/out.png"]
    outside += [f"{root}-beside/secret.png", f"{root}/../{root.name}-beside/secret.png"]
    outside += [f"{root}/loop", f"{root}/pipe", f"{root}/below", str(root), f"{root}/", f"{root}/."]
    outside += ["/etc/passwd", "/etc/hosts", "/proc/self/environ", "/proc/self/fd/0", "/dev/zero"]
    outside += ["/dev/stdin", "/proc/self/root" + str(secret), f"{root}/proc/self/environ"]
    outside += [f"{root}/null", f"{root}/environ", "~/secret.png", "$HOME/secret.png", "*"]
    for path in outside:
        yield f"file://{path}"
        yield f"file://localhost{path}"
        yield f"file:{path}"
        yield "file://" + quote(path, safe="")
        yield "file://" + path.replace("..", "%2e%2e")
        yield "file://" + path.replace("..", "%252e%252e")
        yield "file://" + path.replace("../", "..\\")
        yield "file://" + path.replace("../", "..%5c")
        yield "file://" + path.replace("../", "..;/")
        yield "file://" + path.replace("../", "....//")
        yield "file://" + path.replace("..", "\uff0e\uff0e")
        yield "file://" + path.replace("..", "%c0%ae%c0%ae")
        yield f"file://{root}/good.png%00{path}"
        yield f"file://{path}%00.png"
        yield f"file://{path}?x={root}/good.png"
        yield f"file://{path}#{root}/good.png"
        yield f"file://evil.test{path}"
        yield f"file://127.0.0.1{path}"
        yield f"file:////{path}"
        yield f"FILE://{path}"
        yield f" file://{path}"
        yield f"file://{root}{path}"
        yield path


def image_root(server: Target, attempts: Attempts) -> None:
    """Any file outside of the root that is read, or waited for, is a success."""
    root, folder = server.root, server.folder
    secret, beside = folder / "secret.png", folder / f"{root.name}-beside"
    beside.mkdir()
    for path in (secret, beside / "secret.png"):
        path.write_bytes(png(FORBIDDEN))
    for path in (root / "good.png", root / "below" / "good.png"):
        path.write_bytes(png(PERMITTED))
    links = {"out.png": secret, "way": folder, "loop": "loop", "null": "/dev/zero"}
    for name, to in {**links, "environ": "/proc/self/environ"}.items():
        (root / name).symlink_to(to)
    (root / "below" / "out.png").symlink_to("../../secret.png")
    (root / "in.png").symlink_to("below/good.png")
    os.mkfifo(root / "pipe")
    with server.client(ALICE) as client:
        for name in ("good.png", "below/good.png", "in.png", "below/../good.png"):
            answer = _inspect(client, f"file://{root}/{name}")
            attempts.permitted(answer.status_code == 200, answer.text)
        for url in dict.fromkeys(_ways_out(root, secret)):
            if attempts.due:
                attempts.note(_inspect(client, url).status_code < 400, url)
        _exchange(server, client, attempts, secret)


def _exchange(server: Target, client: httpx.Client, attempts: Attempts, secret: Path) -> None:
    """A folder that becomes a link, and a file that becomes one, while they are asked for."""
    folder, ended = server.root / "changing", threading.Event()
    real, link = server.root / "real", server.root / "link"
    real.mkdir()
    (real / "secret.png").write_bytes(png(PERMITTED))
    link.symlink_to(secret.parent)

    def change() -> None:
        while not ended.is_set():
            for each in (real, link):
                with suppress(OSError):
                    each.rename(folder)
                    folder.rename(each)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(_EXCHANGES):
            if attempts.due:
                answer = _inspect(client, f"file://{folder}/secret.png")
                attempts.note(str(FORBIDDEN[0]) in _sizes(answer), answer.text)
    finally:
        ended.set()
        thread.join()


def _sizes(answer: httpx.Response) -> list[str]:
    text = answer.text if answer.status_code == 200 else ""
    return [part for part in "".join(c if c.isdigit() else " " for c in text).split() if part]


# Where nothing may be fetched from: this machine, networks behind it, clouds' own services.
PRIVATE = (
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0"),
    *("0177.0.0.1", "127.0.0.1.", "127.000.000.001", "0.0.0.0", "localhost", "LOCALHOST", "[::1]"),
    *(
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
        "[::127.0.0.1]",
    ),
    *(
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "10.0.0.1",
    ),
    *("172.16.0.1", "192.168.0.1", "100.64.0.1", "169.254.169.254", "[::ffff:169.254.169.254]"),
    *("2852039166", "198.18.0.1", "224.0.0.1", "255.255.255.255", "192.0.0.192", "[ff02::1]"),
    *(
        "\u2460\u2461\u2466.0.0.1",
        "127\u30020\u30020\u30021",
        "\uff11\uff12\uff17.0.0.1",
        "[2001:db8::1]",
    ),
    *("inner.test", "mixed.test", "mapped.test", "metadata.test", "zero.test", "six.test"),
)
_NAMES = {
    "inner.test": [["127.0.0.1"]],
    "mixed.test": [["93.184.215.14", "127.0.0.1"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "metadata.test": [["169.254.169.254"]],
    "zero.test": [["0.0.0.0"]],
    "six.test": [["::1"]],
}
PUBLIC = "93.184.215.14"


def _urls() -> Iterator[str]:
    for host in PRIVATE:
        for form in (
            *("http://{}/a.png", "https://{}/a.png", "http://{}:80/a.png", "http://{}:443/a.png"),
            *("http://public.test@{}/a.png", "http://{}#@public.test/", "http://{}?@public.test/"),
            *("HTTP://{}/a.png", "http:{}/a.png", "http:///{}/a.png", "http:\\\\{}\\a.png"),
            *(" http://{}/", "http://{}%2f@public.test/", "http://{}:8000/a.png", "//{}/a.png"),
        ):
            yield form.format(host)
    for scheme in ("ftp", "gopher", "dict", "ldap", "jar", "netdoc", "unix", "http+unix", "ws"):
        yield f"{scheme}://127.0.0.1/a.png"
    yield from ("http://public.test:22/", "http://public.test:6379/", "http://public.test:0/")
    yield from ("http://public.test:65536/", "http://public.test:-1/", "http://[::1", "http://")


def addresses(server: Target, attempts: Attempts) -> None:
    """A connection to what is not public is a success, and so is a name that is looked up twice.

    Names are answered by the attacker's name server, and addresses beyond this machine refuse.
    """
    server.answer_names({**_NAMES, "public.test": [[PUBLIC]]})
    with server.client(ALICE) as client:
        server.network()
        answer = _inspect(client, "http://public.test/a.png")
        connected = ["connected", PUBLIC, 80] in server.network()
        attempts.permitted(connected and answer.status_code == 400, "a public address is tried")
        for url in dict.fromkeys(_urls()):
            if attempts.due:
                answer = _inspect(client, url)
                inside = [each for each in server.network() if _inside(each)]
                attempts.note(answer.status_code < 400 or bool(inside), (url, inside))
        for number in range(60):
            if attempts.due:
                _rebind(server, client, attempts, number)
    _redirects(server, attempts)


def _inside(event: list[object]) -> bool:
    return event[0] == "connected" and event[1] != PUBLIC


def _rebind(server: Target, client: httpx.Client, attempts: Attempts, number: int) -> None:
    """The first look-up gives a public address, which the check sees; later ones do not."""
    later = ("127.0.0.1", "169.254.169.254", "10.0.0.1", "::1")[number % 4]
    name = f"rebind-{number}.test"
    first = [[PUBLIC]] * (1 + number % 2)
    server.answer_names({name: [*first, [later], [later]]})
    tries = 1 + number % 2
    for _ in range(tries):
        _inspect(client, f"http://{name}/{number}.png")
    events = server.network()
    asked = sum(event == ["asked", name] for event in events)
    inside = [each for each in events if _inside(each)]
    attempts.note(bool(inside) or asked > tries, (name, events))


class _Redirecting(BaseHTTPRequestHandler):
    """Redirects to what its path names, and notes what was asked of it."""

    def do_GET(self) -> None:  # the standard library's name
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        to = self.server.to.get(self.path)  # type: ignore[attr-defined]
        picture = png(FORBIDDEN if self.path == "/inner.png" else PERMITTED)
        self.send_response(302 if to else 200)
        if to:
            self.send_header("location", to)
        self.send_header("content-length", "0" if to else str(len(picture)))
        self.end_headers()
        if not to:
            self.wfile.write(picture)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def _web_server() -> Iterator[ThreadingHTTPServer]:
    web = ThreadingHTTPServer(("127.0.0.1", 0), _Redirecting)
    web.asked, web.to = [], {}  # type: ignore[attr-defined]
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.shutdown()
        thread.join()
        web.server_close()


def _redirects(server: Target, attempts: Attempts) -> None:
    """From a host that is permitted by name to others on the same machine, and elsewhere."""
    # Only a server that may fetch from one private place can be led on to another.
    with _web_server() as web, _web_server() as inner:
        port, hidden = web.server_port, inner.server_port
        with target(server.folder / "led", "--image-url-allow", f"127.0.0.1:{port}") as led:
            places = [f"http://127.0.0.1:{hidden}/inner.png", f"http://localhost:{port}/inner.png"]
            places += [
                f"http://127.1:{port}/inner.png",
                f"http://[::ffff:127.0.0.1]:{port}/inner.png",
            ]
            places += [
                f"//127.0.0.1:{hidden}/inner.png",
                f"http://127.0.0.1:{port}@127.0.0.1:{hidden}/",
            ]
            places += [
                f"http://x@127.0.0.1:{port}/inner.png",
                "http://169.254.169.254/",
                "file:///etc/hosts",
            ]
            places += [
                f"file://{server.folder}/secret.png",
                "data:image/png;base64,AAAA",
                "ftp://127.0.0.1/",
            ]
            places += [
                "gopher://127.0.0.1/",
                "http://inner.test/inner.png",
                "javascript:1",
                "http://",
            ]
            places += [
                f"http://127.0.0.1:{port}\\@127.0.0.1:{hidden}/inner.png",
                "\x00",
                "http://public.test:22/",
            ]
            ways = {f"/go-{number}": place for number, place in enumerate(places)}
            ways |= {f"/hop-{number}": f"/go-{number}" for number in range(len(places))}
            ways |= {"/loop": "/loop", "/long-0": "/inner.png"}
            ways |= {f"/long-{number}": f"/long-{number - 1}" for number in range(1, 12)}
            web.to.update(ways)  # type: ignore[attr-defined]
            with led.client(ALICE) as client:
                for path in ("/a.png", "/long-0"):
                    answer = _inspect(client, f"http://127.0.0.1:{port}{path}")
                    attempts.permitted(answer.status_code == 200, answer.text)
                for path in ways:
                    if attempts.due and path not in ("/long-0", "/long-1", "/long-2"):
                        answer = _inspect(client, f"http://127.0.0.1:{port}{path}")
                        reached = answer.status_code < 400 or bool(inner.asked)  # type: ignore[attr-defined]
                        attempts.note(reached, (path, ways[path], answer.text))
                        inner.asked.clear()  # type: ignore[attr-defined]
