"""The command line's side of the settings: flags made from ``Settings``, faults put in words."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.errors import ConfigError
from server.settings.settings import ENV_PREFIX, Settings
from server.settings.types import Flag

# Kubernetes sets these in every pod for a Service whose name begins with "llava".
SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT(_\d+_(TCP|UDP)(_|$)|$)")


class Parser(argparse.ArgumentParser):
    """An argument parser that fails with one line and says what was probably meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage; the caller prints one line."""
        raise ConfigError(f"{message}; see `{self.prog} --help`")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and name the closest flag where one is unknown."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest:
            known = getattr(parsed, "known_flags", ())
            raise ConfigError(f"unknown argument {rest[0]}{did_you_mean(rest[0], known)}")
        return parsed


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion to append to an error, or nothing."""
    close = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def _negative(name: str) -> str:
    return "--no-" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return ENV_PREFIX + name.upper()


def flag_info(field: FieldInfo) -> Flag:
    """The ``Flag`` that every field of the settings carries."""
    return next(item for item in field.metadata if isinstance(item, Flag))


def default_text(field: FieldInfo) -> str:
    """A setting's default as the help shows it."""
    info = flag_info(field)
    if info.default is not None:
        return info.default
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    return "none" if field.default is None else str(field.default)


def add_settings(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Give the parser one flag for each setting, or for those of these ``names``, in groups.

    What is not given stays out.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, field in Settings.model_fields.items():
        if names is not None and name not in names:
            continue
        info = flag_info(field)
        group = groups.get(info.group)
        if group is None:
            group = groups[info.group] = parser.add_argument_group(info.group)
        options: dict[str, Any] = (
            {"action": argparse.BooleanOptionalAction}
            if field.annotation is bool
            else {"metavar": info.metavar or name.upper()}
        )
        if info.bare:
            options |= {"nargs": "?", "const": info.bare}
        if info.repeat:
            options["action"] = "append"
        text = f"{field.description} (default: {default_text(field)})".replace("%", "%%")
        options |= {"dest": name, "default": argparse.SUPPRESS}
        group.add_argument(*info.short, flag_of(name), help=text, **options)
        if info.negative:
            switch = {**options, "action": "store_const", "const": info.negative}
            for key in ("nargs", "metavar"):
                switch.pop(key, None)
            group.add_argument(_negative(name), help=f"{flag_of(name)} {info.negative}", **switch)
    parser.set_defaults(known_flags=tuple(flag_of(name) for name in Settings.model_fields))


def load_settings(flags: Mapping[str, Any]) -> Settings:
    """Settings from flags, variables and file. Raises ConfigError with one line for all faults."""
    given = {name: value for name, value in flags.items() if name in Settings.model_fields}
    _refuse_unknown_variables(os.environ)
    try:
        return Settings(**given)
    except ValidationError as error:
        faults = [_explain(fault, given) for fault in error.errors(include_url=False)]
        raise ConfigError("; ".join(dict.fromkeys(faults))) from None


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {variable_of(name) for name in Settings.model_fields}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in known:
            continue
        if not SERVICE_LINK.search(variable):
            raise ConfigError(f"{variable}: no such setting{did_you_mean(variable, known)}")


def _explain(fault: ErrorDetails, given: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0])
    config = given.get("config") or os.environ.get(variable_of("config"))
    if fault["type"] == "extra_forbidden":
        return f"{config}: {name}: no such setting{did_you_mean(name, Settings.model_fields)}"
    if name in given:
        origin = flag_of(name)
    elif os.environ.get(variable_of(name)):
        origin = variable_of(name)
    else:
        origin = f"{config}: {name.replace('_', '-')}"
    message = fault["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = fault["input"]
    secret = name == "api_key" or isinstance(value, SecretStr)
    return f"{origin}: {message}" + ("" if secret else f" (got {value!r})")
