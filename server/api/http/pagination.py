"""One page of a list that OpenAI's clients go through, by ``after`` and ``limit``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from server.errors import RequestError

T = TypeVar("T")


class PageQuery(BaseModel):
    """The query of a list, the newest first unless ``order`` says otherwise. Lists of other sizes
    have a ``limit`` of their own.
    """

    model_config = ConfigDict(extra="ignore")

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"


@dataclass(slots=True, frozen=True)
class Page(Generic[T]):
    """Some of a list, and what clients go on with."""

    items: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(
    items: Sequence[T],
    query: PageQuery,
    id_of: Callable[[T], str],
    wanted: Callable[[T], bool] = lambda _: True,
) -> Page[T]:
    """The page of ``items``, which are the oldest first, that ``query`` asks for.

    Raises RequestError where there is no item ``after``.
    """
    found = list(items) if query.order == "asc" else list(reversed(items))
    if query.after is not None:
        ids = [id_of(item) for item in found]
        if query.after not in ids:
            raise RequestError(
                f"after: no {query.after[:100]!r} in this list", param="after", code="invalid_value"
            )
        found = found[ids.index(query.after) + 1 :]
    found = [item for item in found if wanted(item)]
    shown = found[: query.limit]
    first, last = (id_of(shown[0]), id_of(shown[-1])) if shown else (None, None)
    return Page(shown, first, last, len(found) > len(shown))
