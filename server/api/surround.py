"""What every request passes on its way to its endpoint, and what the server's life needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from server.api.access import Access
from server.api.gate import Gate, GateKeeper
from server.api.headers import SecurityHeaders
from server.api.keys import KeyRing
from server.api.rates import Rates
from server.api.services import Services
from server.key_file import read_keys


@dataclass(slots=True, frozen=True)
class Controls:
    """The app's handles: who may enter, how many are in, and what the endpoints share."""

    keys: KeyRing
    gate: Gate
    services: Services


def surround(app: FastAPI, services: Services) -> Controls:
    """Adds what stands around the endpoints; the last one added is the outermost.

    Raises:
        ConfigError: the file of keys is wrong.
    """
    options, metrics, gate = services.options, services.metrics, services.gate
    path = options.api_key_file
    keys = KeyRing(options.api_keys, partial(read_keys, path) if path else None)
    app.add_middleware(GateKeeper, gate=gate, metrics=metrics, seconds=options.request_timeout)
    if options.caller.rate or options.caller.concurrency or path:
        app.add_middleware(Rates, limits=options.caller, metrics=metrics)
    if keys.needed:
        app.add_middleware(Access, keys=keys, metrics=metrics)
    if options.cors_origins:
        # Outside of the keys: browsers ask whether they may ask without one.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )
    app.add_middleware(SecurityHeaders)
    return Controls(keys, gate, services)
