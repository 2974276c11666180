"""``llava-server rpc-server``: lends this machine's devices to a llava-server elsewhere."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys

from server.cli.plan.command import size
from server.engine_client.process import environment
from server.errors import ConfigError, StartupError
from server.serve.port_owner import describe_owner
from server.settings.command_line import load_settings
from server.settings.hardware import usable_cores

DEFAULT_PORT = 50052


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the flags, which are those of llama.cpp's rpc-server."""
    add = parser.add_argument
    text = "address to listen on (default: 127.0.0.1, this machine alone)"
    add("--host", default="127.0.0.1", metavar="ADDRESS", help=text)
    text = f"port (default: {DEFAULT_PORT}; 0 takes a free one)"
    add("--port", "-p", type=int, default=DEFAULT_PORT, metavar="PORT", help=text)
    text = "devices to serve, such as CUDA0 or CPU (default: all GPUs, or CPU without one)"
    add("--device", "-d", default="", metavar="NAME,...", help=text)
    text = "memory of each device to offer (default: all; of the CPU what is free)"
    add("--mem", "-m", type=size, metavar="SIZE", help=text)
    text = "processor threads (default: one per usable core)"
    add("--threads", "-t", type=int, default=0, metavar="N", help=text)
    text = "keep weights on disk, so that they are sent once and not at each start"
    add("--cache", "-c", action="store_true", help=text)
    flags = (flag for action in parser._actions for flag in action.option_strings)
    parser.set_defaults(known_flags=tuple(flag for flag in flags if flag.startswith("--")))


def run(options: argparse.Namespace) -> int:
    """Becomes the process that serves, which alone loads llama.cpp.

    Raises:
        ConfigError: a flag makes no sense.
        StartupError: the port cannot be had.
    """
    if not 0 <= options.port < 1 << 16:
        raise ConfigError(f"--port {options.port}: must be from 0 to 65535")
    if ":" in options.host:
        raise ConfigError(f"--host {options.host}: llama.cpp's RPC takes names and IPv4 addresses")
    host, port = _free_port(options.host, options.port)
    cache = load_settings({}).cache_dir / "rpc" if options.cache else None
    threads = options.threads if options.threads > 0 else usable_cores()
    wanted = {
        "host": host,
        "port": port,
        "devices": [name.strip() for name in options.device.split(",") if name.strip()],
        "memory": options.mem,
        "threads": threads,
        "cache_dir": str(cache) if cache else None,
    }
    command = [sys.executable, "-m", "server.engine.llama.rpc_server", json.dumps(wanted)]
    os.execve(sys.executable, command, environment(threads))  # noqa: S606 (no shell)


def _free_port(host: str, port: int) -> tuple[str, int]:
    """The address to listen on: llama.cpp would not say why it cannot."""
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
            address: tuple[str, int] = trial.getsockname()
            return address
    except OSError as error:
        owner = describe_owner(host, port)
        reason = f"in use by {owner}" if owner else error.strerror or str(error)
        raise StartupError(
            f"cannot listen on {host} port {port}: {reason}; choose another with --port"
        ) from error
