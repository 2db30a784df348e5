"""The one place that decides who may talk to the studio.

A request needs the token, in the address or in the cookie that the first page load sets; a Host
that is this machine's, because another name that leads here is a trap (DNS rebinding); and, if it
can change anything, an Origin that is the page itself. Bodies are limited.
"""

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 16 * 2**20
"""Bytes of the largest upload."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
WILDCARDS = frozenset({"0.0.0.0", "::", ""})
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""Scripts, styles and connections come from and go to the studio alone."""


class Guard:
    """Middleware that refuses strangers in plain words, and adds safe headers to each answer."""

    def __init__(self, app: ASGIApp, *, token: str, host: str) -> None:
        self.app, self.token, self.host = app, token, host
        # cookies do not know ports, so that each studio has a name of its own
        self.cookie = f"studio-{hashlib.sha256(token.encode()).hexdigest()[:12]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, redirect it, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        answer = self.refusal(scope) or self.welcome(scope)
        if answer is None:
            await self.app(scope, limit_body(receive), add_headers(send))
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await answer(scope, receive, add_headers(send))
        else:
            await send({"type": "websocket.close", "code": 1008})

    def refusal(self, scope: Scope) -> Response | None:
        """Return the refusal of a request that is not from the studio's own page."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_own_name(host, self.host):
            return refuse(f"Host {host!r:.80} is not this studio's: use the printed address")
        if not self._has_token(scope, headers):
            return refuse("The token is missing or wrong: use the address that the studio printed")
        writes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if (writes or origin is not None) and urlsplit(origin or "").netloc != host:
            return refuse(f"Origin {origin!r:.80} is not the studio's page")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return refuse(f"The upload is larger than {MAX_BODY >> 20} MiB", 413)
        return None

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        offers = [value for name, value in _query(scope) if name == "token"]
        offers.append(cookie_parser(headers.get("cookie", "")).get(self.cookie, ""))
        token = self.token.encode()
        return any(secrets.compare_digest(offer.encode(), token) for offer in offers)

    def welcome(self, scope: Scope) -> Response | None:
        """Move the token of a page's address into a cookie."""
        query = _query(scope)
        if scope["type"] != "http" or scope["method"] != "GET" or "token" not in dict(query):
            return None
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # one slash: a path that begins with two would name another host
        path = "/" + scope["path"].lstrip("/\\")
        answer = RedirectResponse(f"{path}?{rest}" if rest else path, 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
        return answer


def refuse(message: str, status: int = 403) -> Response:
    """Return a refusal in plain words."""
    return PlainTextResponse(f"{message}.\n", status)


def is_own_name(host: str, own: str) -> bool:
    """Return True if a Host header names this machine, with any port, as a tunnel has another.

    Where the studio listens on all addresses, any address is its own, but only the machine's names.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in LOOPBACK or name == own.lower():
        return True
    if own not in WILDCARDS:
        return False
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return name in {socket.gethostname().lower(), socket.getfqdn().lower()}


def limit_body(receive: Receive) -> Receive:
    """Count the bytes of a body, whose length may be unknown before."""
    size = 0

    async def count() -> Message:
        nonlocal size
        message = await receive()
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise HTTPException(413, f"The upload is larger than {MAX_BODY >> 20} MiB.\n")
        return message

    return count


def add_headers(send: Send) -> Send:
    """Add the headers that keep a page to itself."""

    async def add(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", POLICY)
            headers.setdefault("Cache-Control", "no-cache")
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        await send(message)

    return add


def _query(scope: Scope) -> Iterable[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"))
