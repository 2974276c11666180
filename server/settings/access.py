"""Who may enter, from where, and how well it is hidden."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from server.settings.flag import Flag
from server.settings.types import Networks, Origins, Secrets, UserPath


class AccessSettings(BaseModel):
    """Who may enter, from where, and how well it is hidden."""

    api_key: Annotated[Secrets, Flag("Access", (), "KEY,...", "none, open to all", repeat=True)] = (
        Field((), description="keys, one of which clients must send as a bearer token or x-api-key")
    )
    api_key_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none")] = Field(
        None, description="keys with names, hashed, as `llava-server key` writes them"
    )
    insecure: Annotated[bool, Flag("Access")] = Field(
        False, description="listen on a public address without any key"
    )
    ssl_key_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none, no TLS")] = Field(
        None, description="private key of the TLS certificate (PEM)"
    )
    ssl_cert_file: Annotated[UserPath | None, Flag("Access", (), "FILE", "none, no TLS")] = Field(
        None, description="TLS certificate with its chain (PEM)"
    )
    cors_origin: Annotated[Origins, Flag("Access", (), "ORIGIN,...", "none", repeat=True)] = Field(
        (), description="web pages that may ask from a browser, such as https://example.org"
    )
    trusted_proxy: Annotated[Networks, Flag("Access", (), "ADDRESS,...", "none", repeat=True)] = (
        Field((), description="proxies or networks whose X-Forwarded-For and -Proto are believed")
    )
    docs: Annotated[bool, Flag("Access")] = Field(True, description="serve /docs and /openapi.json")
    metrics_port: Annotated[int | None, Flag("Access", (), "PORT", "the same port")] = Field(
        None,
        ge=0,
        le=65535,
        description="port of its own for /metrics and /health; 0 is a free one",
    )
    reuse_port: Annotated[bool, Flag("Access")] = Field(
        False, description="share the port with another server, for a restart without a gap"
    )
