"""NVIDIA's NGC on 127.0.0.1: real HTTP or HTTPS, tokens that expire, pre-signed addresses under another host name, faults.

    with NgcServer() as ngc:
        ngc.add_model("org/team/model", {"1.0": files}, keys={"nvapi-key"})
        environment |= ngc.environment

Without `keys` a model is public. Pre-signed addresses name `localhost` where the API is asked at `127.0.0.1`, so that a
token that travels along would be seen.
"""

from __future__ import annotations

import functools
import hashlib
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from tests.faulty_http import FaultyHandler, FaultyServer

OK = {"requestStatus": {"statusCode": "SUCCESS", "requestId": "r"}}


@dataclass
class Model:
    """One model; everything may be changed while the server runs.

    Attributes:
        versions: files of each version; the last is the latest.
        keys: API keys that may read it; None for everybody.
        accepted: keys whose owners have accepted the licence; None if there is none to accept.
        publishes: whether sha256 are listed.
        status: of all versions.
    """

    versions: dict[str, dict[str, bytes]]
    keys: set[str] | None = None
    accepted: set[str] | None = None
    publishes: bool = True
    status: str = "UPLOAD_COMPLETE"
    created: str = "2026-01-01T00:00:00Z"
    hostile: dict[str, object] = field(default_factory=dict)


class NgcServer(FaultyServer):
    """See the module.

    Attributes:
        page_size: files on a page of a listing.
        token_seconds: how long an exchanged token is good for, and is said to be.
        address_seconds: how long a pre-signed address is good for.
        expire_addresses: so many of the next addresses are handed out expired.
    """

    def __init__(self, *, tls: tuple[Path, Path] | None = None) -> None:
        super().__init__(tls=tls)
        self.models: dict[str, Model] = {}
        self.page_size = 1000
        self.token_seconds = 600.0
        self.address_seconds = 3600.0
        self.expire_addresses = 0
        self._tokens: dict[str, tuple[str, float]] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {"NGC_CLI_API_URL": self.url, "NGC_CLI_AUTH_URL": self.url}

    def add_model(self, name: str, versions: Mapping[str, Mapping[str, bytes]], *, keys: set[str] | None = None) -> Model:
        self.models[name] = Model({v: dict(files) for v, files in versions.items()}, keys=keys)
        return self.models[name]

    def forget_tokens(self) -> None:
        """All exchanged tokens are refused from now on."""
        self._tokens.clear()

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [r.path.split("/", 3)[3] for r in self.requests if r.path.startswith("/blob/")]

    # Routes -----------------------------------------------------------------------------------------------------------

    def answer(self, handler: FaultyHandler) -> None:
        path = handler.seen.path
        if path.startswith("/blob/"):
            return self._blob(handler)
        if handler.broken(self.fault(path)):
            return None
        if path == "/token":
            return self._token(handler)
        found = self._find(path)
        if found is None:
            return handler.send_json({"requestStatus": {"statusCode": "NOT_FOUND"}}, 404)
        name, model, rest, guest = found
        if not self._allowed(handler, model, guest):
            return None
        return self._model(handler, name, model, rest)

    def _find(self, path: str) -> tuple[str, Model, str, bool] | None:
        for name, model in self.models.items():
            *owners, short = name.split("/")
            private = f"/v2/org/{owners[0]}" + (f"/team/{owners[1]}" if len(owners) > 1 else "") + f"/models/{short}"
            public = f"/v2/models/{name}"
            address = f"/v2/models{private.removeprefix('/v2').removesuffix(f'/models/{short}')}/{short}"
            for route, guest in ((private, False), (public, True), (address, True)):
                if path == route or path.startswith(route + "/"):
                    return name, model, path.removeprefix(route), guest
        return None

    def _allowed(self, handler: FaultyHandler, model: Model, guest: bool) -> bool:
        token = (handler.seen.authorization or "").removeprefix("Bearer ")
        if guest and not token:
            if model.keys is not None:
                handler.send_json({}, 401)
            return model.keys is None
        key = token if token.startswith("nvapi-") else None
        if key is None and token in self._tokens and time.monotonic() < self._tokens[token][1]:
            key = self._tokens[token][0]
        if key is None:
            handler.send_json({}, 401)
        elif model.keys is not None and key not in model.keys:
            handler.send_json({}, 403)
        elif model.accepted is not None and key not in model.accepted and "/files" in handler.seen.path:
            handler.send_json({"requestStatus": {"statusCode": "PRECONDITION_FAILED"}}, 412)
        else:
            return True
        return False

    def _token(self, handler: FaultyHandler) -> None:
        basic = (handler.seen.authorization or "").removeprefix("Basic ")
        user, _, key = b64decode(basic).decode().partition(":")
        known = {k for model in self.models.values() for k in model.keys or ()}
        if user != "$oauthtoken" or key not in known or handler.seen.query.get("service") != "ngc":
            return handler.send_json({}, 401)
        token = f"token-{len(self._tokens)}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        self._tokens[token] = (key, time.monotonic() + self.token_seconds)
        return handler.send_json({"token": token, "expires_in": self.token_seconds})

    def _model(self, handler: FaultyHandler, name: str, model: Model, rest: str) -> None:
        if not rest:
            latest = list(model.versions)[-1]
            etag = f'"{hashlib.sha256(latest.encode()).hexdigest()[:12]}"'
            if handler.seen.headers.get("if-none-match") == etag:
                return handler.send(304, b"", {"ETag": etag})
            about = {"name": name.rpartition("/")[2], "latestVersionIdStr": latest, **model.hostile}
            return handler.send_json({**OK, "model": about}, headers={"ETag": etag})
        if match := re.fullmatch(r"/versions/([^/]+)(/files)?", rest):
            if match[1] not in model.versions:
                return handler.send_json({}, 404)
            return self._listing(handler, model, match[1]) if match[2] else self._version(handler, model, match[1])
        match = re.fullmatch(r"/([^/]+)/files", rest)
        if match is None or match[1] not in model.versions:
            return handler.send_json({}, 404)
        return self._addresses(handler, name, model, match[1])

    def _version(self, handler: FaultyHandler, model: Model, version: str) -> None:
        files = model.versions[version]
        about = {
            "versionId": version,
            "status": model.status,
            "totalFileCount": len(files),
            "totalSizeInBytes": sum(len(b) for b in files.values()),
        }
        handler.send_json({**OK, "modelVersion": about})

    def _listing(self, handler: FaultyHandler, model: Model, version: str) -> None:
        entries = [
            {
                "path": path,
                "sizeInBytes": len(data),
                "createdDate": model.created,
                **({"sha256_base64": b64encode(hashlib.sha256(data).digest()).decode()} if model.publishes else {}),
            }
            for path, data in model.versions[version].items()
        ]
        size = min(int(handler.seen.query.get("page-size", "100")), self.page_size)
        page = int(handler.seen.query.get("page-number", "0"))
        pages = max(1, -(-len(entries) // size))
        info = {"index": page, "size": size, "totalPages": pages, "totalResults": len(entries)}
        handler.send_json({**OK, "modelFiles": entries[page * size : (page + 1) * size], "paginationInfo": info})

    def _addresses(self, handler: FaultyHandler, name: str, model: Model, version: str) -> None:
        wanted = handler.seen.query.get("path")
        paths = [p for p in model.versions[version] if wanted in (None, p)]
        if not paths:
            return handler.send_json({}, 404)
        seconds = self.address_seconds
        if self.expire_addresses:
            self.expire_addresses -= 1
            seconds = -1
        until = time.time() + seconds
        base = f"{self.scheme}://localhost:{self.port}/blob/{name.replace('/', '~')}@{version}"
        urls = [f"{base}/{quote(p)}?Expires={until:.3f}&Signature=secret-signature" for p in paths]
        return handler.send_json({**OK, "urls": urls, "filepath": paths})

    def _blob(self, handler: FaultyHandler) -> None:
        _, _, place, path = handler.seen.path.split("/", 3)
        name, _, version = place.replace("~", "/").partition("@")
        query = handler.seen.query
        if query.get("Signature") != "secret-signature" or float(query.get("Expires", "0")) < time.time():
            return handler.send(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", {})
        data = self.models[name].versions[version][path]
        return handler.send_data(data, {"ETag": f'"{_md5(data)}"'}, self.fault(path))


@functools.lru_cache(maxsize=64)
def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
