"""Who asks NGC: a key as it is, a token that an older key is exchanged for, or nobody (guest mode).

    GET <auth>/token?service=ngc&scope=group/ngc:<org>[&scope=group/ngc:<org>/<team>]      Basic $oauthtoken:<key> -> token

Tokens are kept beside the HTTP client and are shared by all sources that use it: a thousand models of one org cost one
exchange. Neither keys nor tokens appear in a message.
"""

from __future__ import annotations

import os
import re
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode
from weakref import WeakKeyDictionary

from enginepress.errors import RecipeError, SourceError
from enginepress.json_text import parse_json
from enginepress.sources import Interrupted
from enginepress.sources.asking import NO_JSON, is_loopback, read_whole
from enginepress.sources.transfer import HttpClient, public_address

DEFAULT_AUTH = "https://authn.nvidia.com"
_ENVIRONMENT = "NGC_API_KEY"
_TOKEN_SECONDS = 600.0
"""How long a token is used whose server does not say how long it is good for."""


def base_address(variable: str, default: str) -> str:
    """NGC_CLI_API_URL or NGC_CLI_AUTH_URL, read now; else the default."""
    address = os.environ.get(variable, "").strip().rstrip("/") or default
    if "://" not in address:
        address = f"https://{address}"
    if not address.startswith("https://") and not is_loopback(address):
        raise SourceError(
            f"{public_address(address)!r} is no https address, and a key is never sent in the clear",
            where=variable,
            fix="write https://…, or unset it",
        )
    return address


@dataclass
class _Shelf:
    """The token of one key for one org and team. `lock` is held during the exchange, so that many ask for it once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str | None = None
    until: float = 0.0


_shelves: WeakKeyDictionary[HttpClient, dict[tuple[str, ...], _Shelf]] = WeakKeyDictionary()
_shelves_lock = threading.Lock()


class NgcIdentity:
    """What is sent to NGC as proof of who asks. May be used by many threads.

    Args:
        reference: `${NAME}` of the variable that holds the API key, or None for NGC_API_KEY, which may be unset.
    """

    def __init__(self, org: str, team: str | None, reference: str | None, http: HttpClient) -> None:
        self.variable = reference[2:-1] if reference else _ENVIRONMENT
        self._org, self._team = org, team
        self._needed = reference is not None
        self._auth = base_address("NGC_CLI_AUTH_URL", DEFAULT_AUTH)
        self._http = http

    def token(self) -> str | None:
        """The token to send, or None for a guest.

        Raises:
            RecipeError: the recipe names a variable that is not set.
            SourceError: what stands there is no key, or NGC does not know it.
            Interrupted: if another try may help.
        """
        key = self._key()
        if key is None or key.startswith("nvapi-"):
            return key
        shelf = self._shelf(key)
        with shelf.lock:
            if shelf.token is None or time.monotonic() > shelf.until:
                shelf.token, seconds = self._exchange(key)
                shelf.until = time.monotonic() + max(seconds * 0.8, 1.0)
            return shelf.token

    def forget(self, token: str) -> None:
        """NGC has refused this token: the next one is asked for anew."""
        key = self._key()
        if key is None or key.startswith("nvapi-"):
            return
        shelf = self._shelf(key)
        with shelf.lock:
            if shelf.token == token:
                shelf.token = None

    def _key(self) -> str | None:
        key = os.environ.get(self.variable, "").strip()
        if not key:
            if not self._needed:
                return None
            raise RecipeError(
                f"the environment variable {self.variable} is not set or empty",
                where="source.token",
                fix=f"export {self.variable}=nvapi-…",
            )
        if not re.fullmatch(r"[!-~]+", key):
            raise SourceError("holds no key: it has spaces or other characters that no key has", where=self.variable)
        return key

    def _shelf(self, key: str) -> _Shelf:
        with _shelves_lock:
            known = _shelves.setdefault(self._http, {})
            return known.setdefault((self._auth, self._org, self._team or "", key), _Shelf())

    def _exchange(self, key: str) -> tuple[str, float]:
        """A token, and for how many seconds it is good."""
        scopes = [f"group/ngc:{self._org}", *([f"group/ngc:{self._org}/{self._team}"] if self._team else [])]
        query = urlencode([("service", "ngc"), *(("scope", s) for s in scopes)])
        identity = b64encode(f"$oauthtoken:{key}".encode()).decode()
        headers, private = {"accept": "application/json"}, {"authorization": f"Basic {identity}"}
        with self._http.get(f"{self._auth}/token?{query}", headers, private=private) as answer:
            if answer.status in (401, 403):
                raise SourceError(
                    f"does not know this key, or the key's account is not in the org {self._org!r}",
                    where=self._auth,
                    fix=f"put a key of that org into {self.variable}; https://org.ngc.nvidia.com/setup makes keys",
                )
            if answer.status != 200:
                raise Interrupted(f"the token server answers with status {answer.status}", wait=answer.retry_after)
            raw = read_whole(answer, where=self._auth)
        fix = "check NGC_CLI_AUTH_URL, and whether a proxy stands between"
        data: Any = parse_json(raw, where=self._auth, problem=NO_JSON, fix=fix)
        token = data.get("token") if isinstance(data, dict) else None
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise SourceError("answered without a token", where=self._auth, fix="check NGC_CLI_AUTH_URL")
        lives = data.get("expires_in")
        return token, float(lives) if isinstance(lives, (int, float)) and lives > 0 else _TOKEN_SECONDS
