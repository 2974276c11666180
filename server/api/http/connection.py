"""Working only as long as the client waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):  # noqa: N818 - it is no error, there is only no client to answer
    """The client closed the connection."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client goes away.

    To be called after the request's body was read: the next message is the goodbye.
    """
    task = asyncio.ensure_future(work)
    goodbye = asyncio.ensure_future(_goodbye(receive))
    try:
        await asyncio.wait((task, goodbye), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        task.cancel()
        goodbye.cancel()
        await asyncio.gather(task, goodbye, return_exceptions=True)


async def _goodbye(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
