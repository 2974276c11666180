"""On whose account a request's decoding goes: the key's, or the address's."""

from __future__ import annotations

import httpx
import pytest
from fakes import FakeEngine, chat, image_part, serving

from server.decoders.pool import DecoderPool, Done, Work


@pytest.mark.parametrize(
    ("keys", "account"), [((), "127.0.0.1"), (("secret",), "key")], ids=["address", "key"]
)
def test_a_picture_is_charged_to_the_client_that_sent_it(
    keys: tuple[str, ...], account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    charged: list[str] = []
    real = DecoderPool.run

    async def noting(pool: DecoderPool, work: Work, client: str) -> Done:
        done = await real(pool, work, client)
        assert pool._usage.of(client) > 0
        charged.append(client)
        return done

    monkeypatch.setattr(DecoderPool, "run", noting)
    with serving(FakeEngine(), api_keys=keys) as url:
        header = {"authorization": "Bearer secret"} if keys else {}
        body = chat([image_part()])
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=header)
        assert answer.status_code == 200
    assert len(charged) == 1
    assert charged[0].startswith(account)
