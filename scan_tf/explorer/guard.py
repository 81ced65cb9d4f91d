"""Who may ask: whoever has the token, from a page of this server, by the name it was bound to.

Other programs' pages in the same browser can send requests to a local server. They have no token,
cannot read the cookie (HttpOnly), are not sent it along (SameSite=Strict), and a name of theirs
that leads here (DNS rebinding) is not one that this server goes by.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ALWAYS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_READS = ("GET", "HEAD")


class Keys:
    """What opens a server: the token in its address, and the cookie that the token is changed for.

    Args:
        host: the name or address that it is bound to.
        port: its port.
    """

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self.token, self._secret = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        # Cookies are shared by all ports of a host.
        self._name = f"scan-tf-{port}"

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """A header that sets the cookie."""
        return f"{self._name}={self._secret}; Path=/; HttpOnly; SameSite=Strict"

    def opens(self, token: str) -> bool:
        """Whether it is the token."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def knows(self, cookies: str) -> bool:
        """Whether the header has the cookie."""
        try:
            found = SimpleCookie(cookies).get(self._name)
        except CookieError:
            return False
        value = "" if found is None else found.value
        return hmac.compare_digest(value.encode("utf-8", "replace"), self._secret.encode())

    def goes_by(self, host: str) -> bool:
        """Whether a Host header is one of this server.

        A name that somebody else may give to an address is none; an address or localhost is, as far
        as the server is bound to it.
        """
        name, _, port = host.rpartition(":")
        if port != str(self.port):
            return False
        name = name.removeprefix("[").removesuffix("]").lower()
        if name == self.host.lower():
            return True
        everywhere = self.host in ("0.0.0.0", "::")
        if name == "localhost":
            return everywhere or is_loopback(self.host)
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return everywhere or (address.is_loopback and is_loopback(self.host))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what is bound to a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses what is not from the page, and gives every answer the headers that browsers heed."""

    def __init__(self, app: ASGIApp, keys: Keys):
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        enters = self._enters(scope)
        refusal = self._refusal(scope, headers, enters)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    answer.setdefault(name, value)
                if enters and refusal is None:
                    answer.append("Set-Cookie", self.keys.cookie)
            await send(message)

        app = self.app if refusal is None else refusal
        await app(scope, receive, sending)

    def _enters(self, scope: Scope) -> bool:
        """Whether it is the page that is asked for, with the token."""
        if scope["method"] != "GET" or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return len(given) == 1 and self.keys.opens(given[0])

    def _refusal(self, scope: Scope, headers: Headers, enters: bool) -> PlainTextResponse | None:
        """The answer to what is refused; None to what is not."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.keys.goes_by(hosts[0]):
            return _no("this server does not go by that name and port")
        navigates = enters and headers.get("sec-fetch-mode", "navigate") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not navigates:
            return _no("the request comes from another site")
        if not enters and not self.keys.knows(headers.get("cookie", "")):
            return _no("open the address that scan-tf explore has printed, with its token")
        if scope["method"] in _READS:
            return None
        if headers.get("origin") != f"http://{hosts[0]}":
            return _no("a change has to come from the page")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            return PlainTextResponse("expected application/json\n", 415)
        return None


def _no(why: str) -> PlainTextResponse:
    return PlainTextResponse(f"403: {why}.\n", 403)
