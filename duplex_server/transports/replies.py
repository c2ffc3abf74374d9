"""Bodies in, errors out: what every HTTP route does in the same way.

The one place where an error becomes an HTTP status. Knows nothing about routes.
"""

from __future__ import annotations

import asyncio
import email.policy
import json
import math
from email.parser import BytesParser
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from duplex_server.errors import AuthError, CapacityError, ClientError, DuplexError, LimitExceeded, SessionExpired
from duplex_server.security import ForeignOrigin, NotPermitted, Throttled, Visitor
from duplex_server.transports.calls import UnknownCall
from duplex_server.transports.rtc_sdp import InvalidOffer

__all__ = [
    "BODY_TIMEOUT_S",
    "MAX_BODY_BYTES",
    "error_reply",
    "read_body",
    "read_offer_form",
    "reply_to_failure",
    "reply_to_status",
    "visitor_of",
]

BODY_TIMEOUT_S = 10.0

MAX_BODY_BYTES = 256 * 1024
"""An offer, a session, or both. A browser's offer has 3 to 10 KB, instructions seldom more."""

_STATUSES: tuple[tuple[type[DuplexError], int], ...] = (
    (ForeignOrigin, 403),
    (NotPermitted, 403),
    (AuthError, 401),
    (UnknownCall, 404),
    (Throttled, 429),
    (LimitExceeded, 413),
    (ClientError, 400),
    (CapacityError, 503),
    (SessionExpired, 410),
    (DuplexError, 500),
)


def error_reply(error: DuplexError) -> JSONResponse:
    """Tell a client what went wrong, in the words of OpenAI's API: ``{"error": {message, type, code, param}}``."""
    status = next(status for kind, status in _STATUSES if isinstance(error, kind))
    code = error.error_code if isinstance(error, ClientError) else error.code
    param = error.param if isinstance(error, ClientError) else None
    headers = {}
    if isinstance(error, (CapacityError, Throttled)):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _reply(status, str(error) if status != 500 else "The server failed.", code, param, headers)


async def reply_to_failure(_: Request, error: Exception) -> Response:
    """Answer for an error that reached the application's edge. Only a :class:`DuplexError` speaks for itself."""
    return error_reply(error if isinstance(error, DuplexError) else DuplexError())


async def reply_to_status(_: Request, error: Exception) -> Response:
    """Answer for a status that starlette raised: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    code = "not_found" if error.status_code == 404 else "invalid_request"
    return _reply(error.status_code, error.detail, code, None, dict(error.headers or {}))


def _reply(status: int, message: str, code: str, param: str | None, headers: dict[str, str]) -> JSONResponse:
    kind = {429: "rate_limit_error"}.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "code": code, "param": param}}
    return JSONResponse(body, status, {"Cache-Control": "no-store", **headers})


def visitor_of(connection: HTTPConnection[Any]) -> Visitor:
    """Read off a request what the gate looks at."""
    return Visitor(
        authorization=connection.headers.get("authorization", ""),
        subprotocols=connection.scope.get("subprotocols", ()),
        query_key=connection.query_params.get("api_key", ""),
        origin=connection.headers.get("origin", ""),
        host=connection.headers.get("host", ""),
        address=connection.client.host if connection.client else "",
    )


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Read a request's body.

    Raises:
        LimitExceeded: it is longer than ``limit_bytes``.
        HTTPException: 408, it did not come in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit_bytes:
                    raise LimitExceeded(
                        f"The body is longer than {limit_bytes} bytes.",
                        limit="body",
                        value=f"{limit_bytes} bytes",
                        code="request_too_large",
                    )
    except TimeoutError as error:
        raise HTTPException(408, "The body did not come in time.") from error
    return bytes(body)


def read_offer_form(content_type: str, body: bytes) -> tuple[str, str]:
    """Read an offer and, if it came with one, its session.

    Args:
        content_type: ``application/sdp``, or ``multipart/form-data`` with the fields ``sdp`` and ``session``.
        body: the request's.

    Returns:
        The SDP, and a ``session.update`` event as JSON, a ``session.resume`` where the session has a key ``resume``,
        or "".

    Raises:
        InvalidOffer: neither of both, or a field is missing or not what it should be.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("application/sdp", "text/plain"):
        return _text(body, "sdp"), ""
    if media_type != "multipart/form-data":
        raise InvalidOffer(
            "Send the SDP offer as application/sdp, or as the field 'sdp' of multipart/form-data with 'session'."
        )
    fields = _form_fields(content_type, body)
    if "sdp" not in fields:
        raise InvalidOffer("The form has no field 'sdp'.", param="sdp")
    if "session" not in fields:
        return _text(fields["sdp"], "sdp"), ""
    try:
        session = json.loads(_text(fields["session"], "session"))
    except (ValueError, RecursionError) as error:
        raise InvalidOffer("The field 'session' is not JSON.", param="session") from error
    if not isinstance(session, dict):
        raise InvalidOffer("The field 'session' must be a JSON object.", param="session")
    resume = session.get("resume")
    if isinstance(resume, dict):
        return _text(fields["sdp"], "sdp"), json.dumps({**resume, "type": "session.resume"})
    return _text(fields["sdp"], "sdp"), json.dumps({"type": "session.update", "session": session})


def _form_fields(content_type: str, body: bytes) -> dict[str, bytes]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    form = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    fields: dict[str, bytes] = {}
    for part in form.iter_parts() if form.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content
    return fields


def _text(content: bytes, param: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InvalidOffer(f"The {param} is not UTF-8.", param=param) from error
