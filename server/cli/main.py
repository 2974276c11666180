"""The ``llava-server`` command: serve, describe, pull, plan, list, key."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from server import __version__
from server.errors import ConfigError, StartupError
from server.settings.parser import Parser

EXAMPLES = """\
Each setting is a flag, a variable (LLAVA_PORT for --port) or a key of the TOML file that
--config names. A flag beats a variable, a variable beats the file.

examples:
  llava-server serve                                     the demo model, on 127.0.0.1:8000
  llava-server serve llava-1.6-mistral-7b                from the hub, downloaded once
  llava-server serve llava.gguf --mmproj mmproj.gguf     your own files
  llava-server serve hf:OWNER/REPOSITORY:Q4_K_M          any repository of GGUF files
  LLAVA_API_KEY=secret llava-server serve --host 0.0.0.0 --ctx-size 8192 --parallel 8
"""

KEY_EXAMPLES = """\
examples:
  llava-server key alice >> keys.toml                  a new file of keys, or one more entry
  llava-server key alice --file keys.toml              the same, unless alice has one
  llava-server key alice --file keys.toml --rotate     old and new are valid
  llava-server key alice --file keys.toml --replace    the new one alone
  llava-server key list --file keys.toml
  llava-server key remove alice --file keys.toml
"""

RPC_EXAMPLES = """\
examples:
  llava-server rpc-server --host 10.0.0.2                        on the machine that lends
  llava-server rpc-server --host 10.0.0.2 --device CUDA1 --mem 8GiB
  llava-server serve MODEL --rpc 10.0.0.2:50052                  on the machine that serves
"""

PLAN_EXAMPLES = """\
It exits with 0 if the model fits, with 3 if it does not.

examples:
  llava-server plan llava-1.6-mistral-7b                        on this machine
  llava-server plan llava.gguf --mmproj mmproj.gguf -c 16384 --image-size 224
  llava-server plan hf:OWNER/REPOSITORY --device-memory 24GiB   on a machine with such a card
  llava-server plan hf:OWNER/REPOSITORY:Q8_0 --device-memory 24GiB --device-memory 24GiB --json
"""

DESCRIBE_EXAMPLES = """\
It asks the server at --server. If none answers there, or -m names a model, it starts one of its
own and ends it afterwards. Exit code: 0 if every picture was described, 1 if any failed.

examples:
  llava-server describe cat.jpg
  llava-server describe cat.jpg -p "What breed is it?"
  llava-server describe photos/ --out-suffix .txt      writes photos/a.jpg.txt; run again to resume
  llava-server describe photos/ --jsonl > photos.jsonl
  llava-server describe -m llava-1.6-mistral-7b cat.jpg
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the returned number is the exit code."""
    if argv is not None:
        return _main(list(argv))
    code = _main(sys.argv[1:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends anyway, and without a traceback
    return code


def _main(line: list[str]) -> int:
    command = next((word for word in line if not word.startswith("-")), None)
    try:
        with _quiet_interrupt(command):
            code = _run(line, command)
        sys.stdout.flush()
    except StartupError as error:
        # These take the model without a flag.
        flag = "--model: " if command in ("pull", "plan") else ""
        print(f"llava-server: error: {error.message.removeprefix(flag)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        _discard_output()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _discard_output()
        print(f"llava-server: error: cannot write: {error.strerror}", file=sys.stderr)
        return 1
    return code


def _run(line: list[str], command: str | None) -> int:
    parser = _parser(command)
    options = parser.parse_args(line)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    return int(options.run(options))


@contextmanager
def _quiet_interrupt(command: str | None) -> Iterator[None]:
    """Ctrl-C and SIGTERM end ``serve`` with 0, as they do once the server has its own handlers.

    As an exception it would come out of any import, often as a traceback; and before the server
    runs there is nothing to clean up.
    """
    if command != "serve":
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        return
    # An engine that was started by then notices that the line to it has closed.
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: os._exit(0)) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _discard_output() -> None:
    """Python writes what is left at its end, which would fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(command: str | None) -> Parser:
    """The parser; only the flags of ``command`` are added, for they take long to import."""
    parser = Parser(
        prog="llava-server",
        description="Serve LLaVA models on llama.cpp with an API that OpenAI's clients speak.",
        epilog="`llava-server serve --help` shows the settings.",
    )
    parser.add_argument("--version", action="version", version=f"llava-server {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="serve a model",
        description="Serve a model over HTTP.",
        epilog=EXAMPLES,
        usage="llava-server serve [MODEL] [settings]",
    )
    serve.set_defaults(run=_serve)
    if command == "serve":
        _add_serve(serve)
    pull = commands.add_parser(
        "pull",
        help="download a model",
        description="Download a model and its vision tower, and print where they lie.",
    )
    pull.add_argument(
        "model", metavar="MODEL", help="a name from `llava-server list`, or hf:OWNER/REPO[:QUANT]"
    )
    pull.set_defaults(run=_pull)
    _add_describe(commands, command)
    _add_plan(commands, command)
    _add_key(commands)
    _add_rpc_server(commands, command)
    known = commands.add_parser(
        "list", help="list the known models", description="List the models known by name."
    )
    known.set_defaults(run=_list)
    return parser


def _add_serve(serve: Parser) -> None:
    from server.settings.command_line import HelpAll, add_settings  # noqa: PLC0415

    serve.add_argument(
        "named_model", metavar="MODEL", nargs="?", help="the same as --model (default: demo)"
    )
    serve.add_argument(
        "--help-all", action=HelpAll, nargs=0, help="show every setting, in groups, and exit"
    )
    add_settings(serve, everyday=True)


def _add_describe(commands: argparse._SubParsersAction[Parser], command: str | None) -> None:
    describe = commands.add_parser(
        "describe",
        help="ask about pictures, one or a folder of them",
        description="Ask a model about pictures, one or a folder of them.",
        epilog=DESCRIBE_EXAMPLES,
    )
    if command == "describe":
        from server.cli.describe import add_arguments  # noqa: PLC0415

        add_arguments(describe)
    describe.set_defaults(run=_describe)


def _add_plan(commands: argparse._SubParsersAction[Parser], command: str | None) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what a model will take of memory",
        description="Say what a model will take of memory, before it is loaded or downloaded.",
        epilog=PLAN_EXAMPLES,
    )
    if command == "plan":
        from server.cli.plan.command import add_arguments  # noqa: PLC0415

        add_arguments(plan)
    plan.set_defaults(run=_plan)


def _add_rpc_server(commands: argparse._SubParsersAction[Parser], command: str | None) -> None:
    rpc = commands.add_parser(
        "rpc-server",
        help="lend this machine's devices to a server elsewhere",
        description="Lend this machine's GPUs, or its processor, to a llava-server on another"
        " machine, which names it with --rpc HOST:PORT. The protocol has no password: whoever"
        " reaches the port can run programs here.",
        epilog=RPC_EXAMPLES,
    )
    if command == "rpc-server":
        from server.cli.rpc_server import add_arguments  # noqa: PLC0415

        add_arguments(rpc)
    rpc.set_defaults(run=_rpc_server)


def _add_key(commands: argparse._SubParsersAction[Parser]) -> None:
    key = commands.add_parser(
        "key",
        help="make, list or remove API keys",
        description="Make an API key. The key goes to the terminal; its entry for --api-key-file,"
        " which holds its hash alone, to --file, or else to standard output.",
        epilog=KEY_EXAMPLES,
        usage="llava-server key [--file FILE] [--rotate|--replace] NAME | list | remove NAME",
    )
    key.add_argument("name", metavar="NAME", help="whose it is; the log shows it")
    key.add_argument("removed", metavar="NAME", nargs="?", help=argparse.SUPPRESS)
    key.add_argument("--file", metavar="FILE", help="file of keys (default: LLAVA_API_KEY_FILE)")
    how = key.add_mutually_exclusive_group()
    how.add_argument("--rotate", action="store_true", help="a new key beside the last one")
    how.add_argument("--replace", action="store_true", help="a new key instead of the old")
    known = ("--file", "--rotate", "--replace", "--help")
    key.set_defaults(run=_key, known_flags=known)


# pydantic and the hub's client take half a second to import: each command imports what it needs.


def _serve(options: argparse.Namespace) -> int:
    from server.settings.command_line import load_settings  # noqa: PLC0415

    flags, named = vars(options), options.named_model
    if named is not None and flags.setdefault("model", named) != named:
        raise ConfigError(f"MODEL is {named}, --model is {options.model}; give one of them")
    settings = load_settings(flags)
    from server.hub.resolve import identify  # noqa: PLC0415
    from server.serve.startup_messages import begin  # noqa: PLC0415

    model = identify(settings)
    begin(settings)
    from server.serve.main import run  # noqa: PLC0415

    return run(settings, model)


def _pull(options: argparse.Namespace) -> int:
    from server.settings.command_line import load_settings  # noqa: PLC0415

    settings = load_settings({"model": options.model})
    from server.hub.resolve import resolve  # noqa: PLC0415

    found = resolve(settings, repair=True)
    print(found.model)
    if found.mmproj is not None:
        print(found.mmproj)
    return 0


def _describe(options: argparse.Namespace) -> int:
    from server.cli.describe import run  # noqa: PLC0415

    return run(options)


def _plan(options: argparse.Namespace) -> int:
    from server.cli.plan.command import run  # noqa: PLC0415

    return run(options)


def _rpc_server(options: argparse.Namespace) -> int:
    from server.cli.rpc_server import run  # noqa: PLC0415

    return run(options)


def _key(options: argparse.Namespace) -> int:
    from server.cli.keys import run  # noqa: PLC0415

    return run(options)


def _list(_options: argparse.Namespace) -> int:
    from server.cli.models import lines  # noqa: PLC0415

    for line in lines():
        print(line)
    return 0
