"""The server's gate: who may come in, with how much."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable

from starlette.responses import JSONResponse

from lemur_mini.command import OptionError

OPEN = {"/health"}  # answered without a token: what watches the server has none
MOST = 16 * 2**20  # bytes of a request's body


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def require_token(host: str, token: str | None) -> None:
    """Raise OptionError where others could come in without a token, or with one that
    is soon guessed or cannot be sent."""
    if token is None and not is_loopback(host):
        raise OptionError(
            f"--host {host} can be reached by others: put a token of 16 characters or "
            "more into LEMUR_MINI_TOKEN, or use --host 127.0.0.1"
        )
    if token is not None and not (len(token) >= 16 and token.isascii()):
        raise OptionError("the token needs 16 ASCII characters or more")


class TooLarge(Exception):
    """A body beyond the limit."""


def gated(app: Callable, token: str | None, most: int = MOST) -> Callable:
    """An ASGI application that asks for a bearer token, where there is one, and reads
    no more of a body than `most` bytes."""

    async def gate(scope, receive, send):
        if scope["type"] != "http":
            return await app(scope, receive, send)
        headers = dict(scope["headers"])
        given = headers.get(b"authorization", b"")
        wanted = f"Bearer {token}".encode()
        locked = token is not None and scope["path"] not in OPEN
        if locked and not hmac.compare_digest(given, wanted):
            said = "give the token: Authorization: Bearer TOKEN"
            answer = JSONResponse({"error": said}, 401)
            return await answer(scope, receive, send)
        too_large = JSONResponse({"error": f"a body of over {most} bytes"}, 413)
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            return await too_large(scope, receive, send)
        try:
            body = await _whole(receive, most)
        except TooLarge:
            return await too_large(scope, receive, send)
        await app(scope, _again(body, receive), send)

    return gate


async def _whole(receive: Callable, most: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise TooLarge
        if not message.get("more_body"):
            return b"".join(parts)


def _again(body: bytes, receive: Callable) -> Callable:
    """A `receive` that gives this body first."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def given():
        return left.pop() if left else await receive()

    return given
