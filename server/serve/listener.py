"""The socket that clients connect to: our own, one shared with a successor, or systemd's."""

from __future__ import annotations

import errno
import ipaddress
import os
import resource
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass

from server.errors import ConfigError, StartupError
from server.serve.port_owner import describe_owner

# systemd's first descriptor (sd_listen_fds(3)).
_FIRST_FD = 3
# What lies in the kernel unsent of one answer. By itself Linux would let megabytes gather there
# before it reported that a client does not read.
_UNSENT_BYTES = 32 * 1024  # Linux doubles it
# Files beside connections: the model, the engine's line, pictures that are fetched.
_OTHER_FILES = 256


@dataclass(slots=True, frozen=True)
class Listener:
    """A bound socket. ``shared``: others listen on the same port, so that clients who cannot
    reach us reach them.
    """

    socket: socket.socket
    shared: bool = False

    def close(self) -> None:
        """Gives the address up, as far as it is ours."""
        self.socket.close()

    @property
    def url(self) -> str:
        """Where it is, without the scheme."""
        name = self.socket.getsockname()
        if not isinstance(name, tuple):
            return str(name)
        host, port = name[:2]
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def public(self) -> bool:
        """Whether other machines may reach it."""
        name = self.socket.getsockname()
        return isinstance(name, tuple) and not ipaddress.ip_address(name[0]).is_loopback


def bind(host: str, port: int, *, reuse_port: bool = False) -> Listener:
    """A socket bound to the address; it does not listen yet.

    Raises:
        StartupError: the address cannot be had.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE and (owner := describe_owner(host, port)):
            raise StartupError(
                f"port {port} of {host} is in use by {owner}; end it, or choose another port with"
                " --port (0 takes a free one)"
            ) from error
        reason = error.strerror or str(error)
        raise StartupError(
            f"cannot listen on {host} port {port}: {reason}; --port 0 takes a free port"
        ) from error
    return Listener(listener, shared=reuse_port)


def inherited() -> Listener | None:
    """The socket that systemd, or a program that speaks like it, has opened; None without one.

    Raises:
        ConfigError: there is more than one.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "0")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # the engine has no part in it
    if count == "0":
        return None
    if count != "1":
        raise ConfigError(f"LISTEN_FDS={count}: one socket is served, no more")
    os.set_inheritable(_FIRST_FD, False)
    return Listener(socket.socket(fileno=_FIRST_FD), shared=True)


def tune(listener: socket.socket, timeout: float) -> None:
    """Bounds what the kernel keeps for a client, and for how long; connections inherit it."""
    if not sys.platform.startswith("linux"):
        return
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNSENT_BYTES)
    if listener.family in (socket.AF_INET, socket.AF_INET6) and timeout:
        # Also for what lies in the kernel after we have closed the connection.
        milliseconds = int(timeout * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def permit_files(connections: int) -> None:
    """Raises this process's limit of open files to what so many connections need.

    Raises:
        ConfigError: the hard limit is lower.
    """
    needed = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"--max-connections {connections}: this process may open only {hard} files"
            " (ulimit -Hn, or LimitNOFILE= of systemd)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def notify(state: str) -> None:
    """Sends ``READY=1``, ``STOPPING=1`` or the like to systemd, if it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # Linux's abstract names
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.sendto(state.encode(), address)
