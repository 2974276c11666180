"""The command line's side of the settings: flags made from ``Settings``, faults put in words."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.errors import ConfigError
from server.settings.parser import did_you_mean
from server.settings.settings import ENV_PREFIX, Settings
from server.settings.types import Flag

# What ``serve --help`` shows, in this order; the others are in ``--help-all``.
EVERYDAY = (
    "model", "mmproj", "alias", "host", "port", "api_key", "api_key_file", "ctx_size", "parallel",
    "n_gpu_layers", "threads", "max_tokens", "image_size", "image_detail", "image_urls", "offline",
    "config", "log_level", "log_format", "verbose",
)  # fmt: skip

# Kubernetes sets these in every pod for a Service whose name begins with "llava".
SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT(_\d+_(TCP|UDP)(_|$)|$)")


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


def add_settings(
    parser: argparse.ArgumentParser,
    names: Collection[str] | None = None,
    *,
    everyday: bool = False,
) -> None:
    """Give the parser one flag for each setting, or for those of these ``names``, in groups.

    What is not given stays out. With ``everyday`` the help shows those that most people use, and
    no groups.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    fields = Settings.model_fields
    for name in dict.fromkeys((*EVERYDAY, *fields)) if everyday else fields:
        if names is not None and name not in names:
            continue
        field, info = fields[name], flag_info(fields[name])
        title = "everyday settings" if everyday else info.group
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default = default_text(field)
        note = "" if everyday and default == "none" else f" (default: {default})"
        text = f"{field.description}{note}".replace("%", "%%")
        hidden = everyday and name not in EVERYDAY
        _add_setting(groups[title], name, field, argparse.SUPPRESS if hidden else text)
    known = [flag_of(name) for name in Settings.model_fields if names is None or name in names]
    helps = ["--help", "--help-all"] if everyday else ["--help"]
    parser.set_defaults(known_flags=(*helps, *known))


def _add_setting(group: argparse._ArgumentGroup, name: str, field: FieldInfo, text: str) -> None:
    info = flag_info(field)
    options: dict[str, Any] = (
        {"action": argparse.BooleanOptionalAction}
        if field.annotation is bool
        else {"metavar": info.metavar or name.upper()}
    )
    if info.bare:
        options |= {"nargs": "?", "const": info.bare}
    if info.repeat:
        options["action"] = "append"
    options |= {"dest": name, "default": argparse.SUPPRESS}
    group.add_argument(*info.short, flag_of(name), help=text, **options)
    if info.negative:
        switch = {**options, "action": "store_const", "const": info.negative}
        for key in ("nargs", "metavar"):
            switch.pop(key, None)
        if text != argparse.SUPPRESS:
            text = f"{flag_of(name)} {info.negative}"
        group.add_argument(_negative(name), help=text, **switch)


class HelpAll(argparse.Action):
    """``--help-all``: every setting, in groups, where ``--help`` shows the everyday ones."""

    def __call__(self, parser: argparse.ArgumentParser, *_args: Any, **_kwargs: Any) -> None:
        """Print it and end."""
        full = type(parser)(
            prog=parser.prog,
            usage=parser.usage,
            description=parser.description,
            epilog=parser.epilog,
        )
        add_settings(full)
        full.print_help()
        parser.exit()


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
