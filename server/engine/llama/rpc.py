"""Devices of other machines: rpc-servers whose devices llama.cpp uses as its own GPUs.

Source: ``ggml_backend_rpc_add_server`` in llama.cpp's ggml-rpc.cpp, which ends the process where it
cannot connect and waits for ever where a server is busy: so each address is tried here first.
"""

from __future__ import annotations

import ctypes
import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from server.engine.llama.ggml import ggml, list_devices
from server.errors import ConfigError, StartupError
from server.memory.fit.pools import is_remote
from server.messages import DeviceMemory

# RPC_PROTO_MAJOR_VERSION of the locked llama.cpp (ggml-rpc.h).
PROTOCOL = 7
_HELLO = 14
_CAPABILITIES = 24
_PATIENCE = 5.0


def add_rpc_servers(addresses: Iterable[str]) -> None:
    """Adds the devices of the servers at ``HOST:PORT`` to llama.cpp's; again changes nothing.

    Raises:
        ConfigError: this llama.cpp was built without RPC.
        StartupError: an address has no server that can be used now.
    """
    for address in addresses:
        library = ggml()
        if not hasattr(library, "ggml_backend_rpc_add_server"):
            raise ConfigError(
                "--rpc: this llama.cpp was built without RPC; `make setup` builds one with it"
            )
        greet(address)
        add = library.ggml_backend_rpc_add_server
        add.restype, add.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        registry = add(address.encode())
        if not registry:
            raise StartupError(f"--rpc {address}: that rpc-server serves no device")
        if address not in _added:
            register = library.ggml_backend_register
            register.restype, register.argtypes = None, [ctypes.c_void_p]
            register(registry)
            _added.add(address)


_added: set[str] = set()


def greet(address: str, patience: float = _PATIENCE) -> None:
    """Returns if a server answers there that this llama.cpp can use, and that is free.

    Raises StartupError, which says what to do.
    """
    host, _, port = address.rpartition(":")
    try:
        # As llama.cpp does, which knows no IPv6.
        found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
        with socket.create_connection((str(found[0]), int(found[1])), patience) as line:
            answer = _hello(line, address)
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise StartupError(
            f"--rpc {address}: cannot connect ({reason}); start `llava-server rpc-server` on that"
            " machine, or leave this address out"
        ) from None
    if answer != PROTOCOL:
        raise StartupError(
            f"--rpc {address}: that rpc-server speaks version {answer} of the protocol, this"
            f" llama.cpp version {PROTOCOL}; use the same release of llava-server on both"
        )


def _hello(line: socket.socket, address: str) -> int:
    """The major version of the server's protocol."""
    line.sendall(struct.pack("<BQ", _HELLO, _CAPABILITIES) + bytes(_CAPABILITIES))
    answer = b""
    try:
        while len(answer) < 8 + 4 + _CAPABILITIES and (more := line.recv(64)):
            answer += more
    except TimeoutError:
        raise StartupError(
            f"--rpc {address}: the server there takes the connection, but does not answer. An"
            " rpc-server serves one client at a time: end the other one (a server, or `plan`). If"
            " there is none, it hangs: start it anew"
        ) from None
    except ConnectionError:
        answer = b""
    if len(answer) != 8 + 4 + _CAPABILITIES or answer[:8] != struct.pack("<Q", 4 + _CAPABILITIES):
        raise StartupError(
            f"--rpc {address}: what answers there is no rpc-server of llama.cpp, or a much older"
            " one; start `llava-server rpc-server` there"
        )
    return answer[8]


def buffer_names(devices: Iterable[DeviceMemory]) -> Mapping[str, str]:
    """The devices' names by what llama.cpp's log calls their buffers.

    It numbers devices through all servers (``RPC1``), and buffers at each (``RPC0[host:port]``).
    """
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for device in filter(is_remote, devices):
        found[f"RPC{seen[device.description]}[{device.description}]"] = device.name
        seen[device.description] += 1
    return found


# The devices that a machine has, and those of the addresses that are given, as JSON: for commands,
# which load no llama.cpp.
if __name__ == "__main__":
    try:
        add_rpc_servers(sys.argv[1:])
        print(json.dumps([asdict(device) for device in list_devices()]))
    except StartupError as error:
        sys.exit(error.message)
