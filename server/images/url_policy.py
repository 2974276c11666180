"""Which URLs may be fetched: schemes, hosts and ports, checked anew at every hop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NoReturn

import httpx2

from server.errors import ConfigError, ImageError
from server.images.address import is_private, is_public

NOT_ALLOWED: Final = "image_url_not_allowed"
_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 8192


@dataclass(slots=True, frozen=True)
class FetchOptions:
    """The operator's choices about http(s) URLs. Off until somebody turns it on.

    ``allow`` are hosts as ``name``, ``name:port`` or ``[address]:port``: if there are any, only
    these are fetched from, and they may be private. ``timeout`` is in seconds and covers
    everything, redirects included; ``at_once`` is how many fetches run at the same time.

    Raises ConfigError for a host that cannot be read, or a number that is not positive.
    """

    enabled: bool = False
    allow: tuple[str, ...] = ()
    timeout: float = 10.0
    at_once: int = 16

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.at_once < 1:
            raise ConfigError("--image-fetch-timeout: must be more than 0")
        for entry in self.allow:
            _read_host(entry)


class UrlPolicy:
    """Decides on URLs and on the addresses that their hosts turn out to have."""

    def __init__(self, options: FetchOptions) -> None:
        self._allow = frozenset(map(_read_host, options.allow))

    def parse(self, url: str, param: str | None, base: httpx2.URL | None = None) -> httpx2.URL:
        """The URL, which may be relative to ``base``. Raises ImageError where it is refused."""
        if len(url) > _LONGEST:
            _refuse(f"The picture's URL is longer than {_LONGEST} characters.", param)
        try:
            parsed = base.join(url) if base is not None else httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as error:
            message = "The picture's URL is not a valid URL."
            raise ImageError(message, param=param, code="unsupported_image_url") from error
        if parsed.scheme not in _PORTS:
            _refuse("The picture's URL leads to something else than http or https.", param)
        if parsed.userinfo:
            _refuse("URLs with a user name or password are not fetched.", param)
        if not parsed.host:
            _refuse("The picture's URL names no host.", param)
        self._check_place(parsed, param)
        return parsed

    def _check_place(self, url: httpx2.URL, param: str | None) -> None:
        host, port = _host(url), _PORTS[url.scheme] if url.port is None else url.port
        usual = port in _PORTS.values()
        if not self._allow:
            if not usual:
                _refuse("Pictures are fetched from the ports 80 and 443 only.", param)
        elif (host, port) not in self._allow and not (usual and (host, None) in self._allow):
            _refuse("Pictures are not fetched from this host (--image-url-allow).", param)

    def permits_address(self, address: str) -> bool:
        """Whether a connection may be made; a host that the operator named may be private."""
        return is_public(address) or (bool(self._allow) and is_private(address))


def _host(url: httpx2.URL) -> str:
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _read_host(entry: str) -> tuple[str, int | None]:
    try:
        url = httpx2.URL(f"any://{entry}")
    except (httpx2.InvalidURL, ValueError):
        url = httpx2.URL("")
    if not url.host or url.userinfo or url.raw_path not in (b"", b"/") or "*" in entry:
        raise ConfigError(f"--image-url-allow: {entry!r} is not a host or host:port")
    return _host(url), url.port


def _refuse(why: str, param: str | None) -> NoReturn:
    raise ImageError(why, param=param, code=NOT_ALLOWED)
