"""What uvicorn answers by itself, in OpenAI's shape."""

from __future__ import annotations

import json
import logging
import sys
import uuid
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

log = logging.getLogger(__name__)


class HttpProtocol(H11Protocol):
    """HTTP/1.1 whose malformed requests, which never reach the app, are answered in JSON too."""

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, and close. Called while h11's error is being handled."""
        error = sys.exc_info()[1]
        status, text = HTTPStatus.BAD_REQUEST, msg
        if isinstance(error, h11.RemoteProtocolError):
            status, text = HTTPStatus(error.error_status_hint), f"{msg} {error}"
        self.refuse(status, text, "invalid_http")

    def refuse(self, status: HTTPStatus, text: str, code: str) -> None:
        """Answer with an error before the app has had a say, and close."""
        request_id = f"req-{uuid.uuid4().hex}"
        log.info("%s %d %s", request_id, status, text)
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # in the middle of an answer: nothing can be said any more
            return
        server = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        kind = "server_error" if server else "invalid_request_error"
        detail = {"message": text, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": detail}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("x-request-id", request_id),
            ("connection", "close"),
        ]
        if server:
            headers.append(("retry-after", "2"))
        response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
