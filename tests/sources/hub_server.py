"""A Hugging Face hub on 127.0.0.1: real HTTP, real commits, and faults on demand.

    with HubServer() as hub:
        commit = hub.add_repo("org/model", folder)              # files of a folder, or {"config.json": b"{}"}
        newer = hub.commit("org/model", {...}, branch="main", tag="v2")
        environment["HF_ENDPOINT"] = hub.url
        hub.faults.append(Fault("model.safetensors", cut_after=1000))
        assert [r.path for r in hub.requests] == ...

Routes, as huggingface_hub 0.34 to 2.4 asks for them: `/api/models/<id>`, `…/revision/<rev>`, `…/tree/<rev>`, and
`/<id>/resolve/<rev>/<path>`. Files of LFS (weights, and what is larger than 1 MB) are redirected to `/cdn/<sha256>` under
another host name, as the hub does, so that a token that follows a redirect would be seen.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
LFS_BYTES = 1_000_000
BLOCK = 64 * 1024


@dataclass
class Fault:
    """Something that goes wrong with answers whose path matches.

    Attributes:
        pattern: fnmatch of a file's name in its repository, or of the request's path for the API (`/api/*`).
        cut_after: the connection is closed after so many bytes of the body.
        corrupt_at: the lowest bit of this byte of the file is flipped.
        short_by: so many bytes are missing at the end, and Content-Length agrees.
        status: this status instead of an answer.
        retry_after: seconds, sent with `status`.
        rate_limit: a RateLimit header, sent with `status`.
        delay: seconds before the answer starts.
        pause: seconds between blocks of 64 KiB.
        ignore_range: the whole file is sent although a part was asked for.
        body: this instead of the answer, with status 200.
        stall_after: after so many bytes of the body nothing more comes, and the connection stays open.
        length_off: Content-Length is wrong by this.
        range_off: another range is sent than was asked for, and said to be so.
        etag: this instead of the file's.
        expired: the signed address is refused, as it is when its time is over.
        times: for so many requests; -1 for all.
    """

    pattern: str
    cut_after: int | None = None
    corrupt_at: int | None = None
    short_by: int = 0
    status: int | None = None
    retry_after: int | None = None
    rate_limit: str = ""
    delay: float = 0
    pause: float = 0
    ignore_range: bool = False
    body: bytes | None = None
    stall_after: int | None = None
    length_off: int = 0
    range_off: int = 0
    etag: str | None = None
    expired: bool = False
    times: int = 1


@dataclass(frozen=True)
class Request:
    """One request that was seen."""

    method: str
    path: str
    query: dict[str, str]
    range: str | None
    token: str | None
    host: str


@dataclass(frozen=True)
class _File:
    path: str
    data: bytes
    sha256: str
    git: str
    xet: str = ""
    """The hash under which Xet keeps it, which is no digest of its bytes; empty for what LFS keeps."""

    @property
    def is_lfs(self) -> bool:
        return self.path.endswith(LFS_SUFFIXES) or len(self.data) > LFS_BYTES

    @property
    def pointer(self) -> bytes:
        """What git holds in place of a file of LFS."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    def sibling(self) -> dict[str, object]:
        """As the revision route lists it."""
        entry = {"rfilename": self.path, "size": len(self.data)}
        if not self.is_lfs:
            return {**entry, "blobId": self.git}
        lfs = {"sha256": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return {**entry, "blobId": _git_sha1(self.pointer), "lfs": lfs}

    def tree_entry(self) -> dict[str, object]:
        """As the tree route lists it."""
        entry = {"type": "file", "path": self.path, "size": len(self.data)}
        if not self.is_lfs:
            return {**entry, "oid": self.git}
        lfs = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return {**entry, "oid": _git_sha1(self.pointer), "lfs": lfs, **({"xetHash": self.xet} if self.xet else {})}


def _xet_hash(data: bytes) -> str:
    """Xet's hash is one over chunks; here it is some other 64 digits than the sha256."""
    return hashlib.blake2s(data).hexdigest()


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class _Repo:
    commits: dict[str, dict[str, _File]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    xet: bool = False
    moved_to: str | None = None
    accepted: set[str] = field(default_factory=set)


class HubServer:
    """The server; a context manager. Everything may be changed while it runs.

    Attributes:
        url: what HF_ENDPOINT is set to.
        requests: every request so far.
        faults: see Fault; the first that matches is used.
        unchanged: how often 304 was answered to the ETag of an earlier answer.
        sent: bytes of each file that were handed to connections.
        busiest: the most answers with files under way at a time.
        page_size: entries of the tree route's pages.
        next_page: what its Link header says instead of the next page.
        digests: False for a hub that publishes sizes and digests only by the tree route.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.sent: Counter[str] = Counter()
        self.busiest = 0
        self._busy = 0
        self.digests = True
        self.page_size = 1000
        self.next_page: str | None = None
        self.unchanged = 0
        self._repos: dict[str, _Repo] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._closing = threading.Event()
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HubServer:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # What it serves ---------------------------------------------------------------------------------------------------

    def add_repo(
        self, repo: str, files: Path | Mapping[str, bytes], *, token: str | None = None, gated: bool = False, xet: bool = False
    ) -> str:
        """A repository with one commit on `main`; returns the commit.

        Args:
            token: the repository is private: only who sends this token sees it.
            gated: everybody sees it, only tokens that `accept` named may read its files.
            xet: large files are kept by Xet; who does not speak its protocol is redirected to a bridge that gives whole files.
        """
        self._repos[repo] = _Repo(token=token, gated=gated, xet=xet)
        return self.commit(repo, files)

    def rename(self, repo: str, new: str) -> None:
        """The repository gets a new name; the old one redirects, as it does on the hub."""
        self._repos[new] = self._repos[repo]
        self._repos[repo] = _Repo(moved_to=new)

    def accept(self, repo: str, token: str) -> None:
        """The owner of `token` accepts the terms of a gated repository."""
        self._repos[repo].accepted.add(token)

    def commit(self, repo: str, files: Path | Mapping[str, bytes], *, branch: str = "main", tag: str | None = None) -> str:
        """Another commit with exactly these files; returns it."""
        content = _read_folder(files) if isinstance(files, Path) else dict(files)
        found = self._repos[repo]
        stored = {
            p: _File(p, b, hashlib.sha256(b).hexdigest(), _git_sha1(b), _xet_hash(b) if found.xet else "")
            for p, b in sorted(content.items())
        }
        seed = f"{repo} {len(found.commits)} " + " ".join(f"{file.path} {file.git}" for file in stored.values())
        commit = hashlib.sha1(seed.encode()).hexdigest()
        found.commits[commit] = stored
        found.names[branch] = commit
        if tag is not None:
            found.names[tag] = commit
        return commit

    def downloads(self) -> list[str]:
        """Names of the files that were asked for, in order, without the redirects' second halves."""
        return [r.path.split("/resolve/", 1)[1].split("/", 1)[1] for r in self.requests if "/resolve/" in r.path]

    # What the handler asks --------------------------------------------------------------------------------------------

    def _find(self, repo: str, revision: str) -> tuple[_Repo | None, str | None]:
        found = self._repos.get(repo)
        if found is None:
            return None, None
        commit = found.names.get(revision, revision)
        return found, commit if commit in found.commits else None

    def _blob(self, sha256: str) -> _File | None:
        files = (f for repo in self._repos.values() for commit in repo.commits.values() for f in commit.values())
        return next((file for file in files if file.sha256 == sha256), None)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def _fault(self, name: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times != 0 and fnmatch(name, fault.pattern):
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed leave broken connections; that is what many tests are about."""


def _read_folder(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        etag = ""
        link = ""

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            path = unquote(address.path)
            authorization = self.headers.get("Authorization") or ""
            self.token = authorization.removeprefix("Bearer ") or None
            query = {k: v[0] for k, v in parse_qs(address.query).items()}
            seen = Request(self.command, path, query, self.headers.get("Range"), self.token, self.headers.get("Host", ""))
            hub.requests.append(seen)
            try:
                self.route(path, address.path, query)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def route(self, path: str, quoted: str, query: dict[str, str]) -> None:
            for old in [name for name, repo in hub._repos.items() if repo.moved_to is not None]:
                if quoted.startswith((f"/api/models/{old}/", f"/{old}/")):
                    self.send_response(307)
                    self.send_header("Location", self.path.replace(old, hub._repos[old].moved_to or "", 1))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return None
            if match := re.fullmatch(r"/cdn/([0-9a-f]{64})", path):
                found = hub._blob(match[1])
                if found is None:
                    return self.refuse(404, "", "no such object")
                return self.send_file(found, commit=None)
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", quoted):
                return self.resolve(*(unquote(part) for part in match.groups()))
            fault = hub._fault(path)
            if fault is not None and self.broken(fault):
                return None
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)/?", quoted):
                return self.api(unquote(match[1]), match[2], unquote(match[3]), query)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", quoted):
                return self.api(unquote(match[1]), "revision", "main", query)
            return self.refuse(404, "", "no such route")

        def allowed(self, repo: str, revision: str) -> tuple[_Repo, str] | None:
            found, commit = hub._find(repo, revision)
            if found is None or (found.token is not None and found.token != self.token):
                # The hub hides private repositories: it answers 401 to the unknown and 404 to the known.
                code, text = (401, "Invalid username or password.") if self.token is None else (404, "Repository not found")
                self.refuse(code, "RepoNotFound", text)
                return None
            if commit is None:
                self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                return None
            return found, commit

        def api(self, repo: str, route: str, revision: str, query: dict[str, str]) -> None:
            allowed = self.allowed(repo, revision)
            if allowed is None:
                return
            found, commit = allowed
            files = found.commits[commit].values()
            if route == "tree":
                entries = [file.tree_entry() for file in files]
                start = int(query.get("cursor", "0"))
                if len(entries) > start + hub.page_size:
                    following = f"{hub.url}/api/models/{repo}/tree/{commit}?recursive=true&cursor={start + hub.page_size}"
                    self.link = hub.next_page or following
                self.send_json(entries[start : start + hub.page_size])
                return
            full = query.get("blobs", "").lower() == "true" and hub.digests
            siblings = [file.sibling() if full else {"rfilename": file.path} for file in files]
            info = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": found.token is not None}
            etag = f'W/"{commit[:16]}"'
            if self.headers.get("If-None-Match") == etag:
                hub.unchanged += 1
                self.send_response(304)
                self.send_header("ETag", etag)
                self.end_headers()
                return
            self.etag = etag
            self.send_json({**info, "gated": "manual" if found.gated else False, "tags": [], "siblings": siblings})

        def resolve(self, repo: str, revision: str, path: str) -> None:
            allowed = self.allowed(repo, revision)
            if allowed is None:
                return None
            found, commit = allowed
            if found.gated and self.token not in found.accepted:
                code = 401 if self.token is None else 403
                return self.refuse(code, "GatedRepo", f"Access to model {repo} is restricted.")
            file = found.commits[commit].get(path)
            if file is None:
                return self.refuse(404, "EntryNotFound", "Entry not found")
            if not file.is_lfs:
                return self.send_file(file, commit=commit)
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.port}/cdn/{file.sha256}?X-Amz-Signature=secret-signature")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-Etag", f'"{file.sha256}"')
            self.send_header("X-Linked-Size", str(len(file.data)))
            if file.xet:
                refresh = f"{hub.url}/api/models/{repo}/xet-read-token/{commit}"
                self.send_header("X-Xet-Hash", file.xet)
                self.send_header("X-Xet-Refresh-Route", refresh)
                self.send_header("Link", f'<{refresh}>; rel="xet-auth"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None

        def broken(self, fault: Fault) -> bool:
            """Applies what needs no file; True if that was the answer."""
            hub._closing.wait(fault.delay)
            if fault.status is not None:
                self.refuse(fault.status, "", "as ordered", retry_after=fault.retry_after, rate_limit=fault.rate_limit)
                return True
            if fault.body is not None:
                self.send_body(fault.body, "application/json")
                return True
            if fault.cut_after is not None and self.path.startswith("/api/"):
                self.send_response(200)
                self.send_header("Content-Length", "100000")
                self.end_headers()
                self.hang_up()
                return True
            return False

        def send_file(self, file: _File, *, commit: str | None) -> None:
            fault = hub._fault(file.path) or Fault(file.path)
            if fault.expired:
                return self.refuse(403, "", "Request has expired")
            if self.broken(fault):
                return None
            content = file.data
            if fault.corrupt_at is not None:
                at = fault.corrupt_at % len(content)
                content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            whole = len(content)
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if fault.ignore_range:
                asked = None
            start = max(0, int(asked[1]) + fault.range_off) if asked else 0
            stop = min(whole - fault.short_by, int(asked[2]) + 1 if asked and asked[2] else whole)
            if start >= stop and start > 0:
                return self.refuse(416, "", "Range Not Satisfiable")
            data = memoryview(content)[start:stop]
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{whole}")
            if commit is not None:
                self.send_header("X-Repo-Commit", commit)
            own = file.xet or file.sha256 if file.is_lfs else file.git
            self.send_header("ETag", fault.etag or f'"{own}"')
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(max(0, len(data) + fault.length_off)))
            self.end_headers()
            if self.command == "HEAD":
                return None
            with hub._sending():
                return self.send_data(file, data, fault)

        def send_data(self, file: _File, data: memoryview, fault: Fault) -> None:
            limits = [n for n in (fault.cut_after, fault.stall_after) if n is not None]
            end = min([len(data), *limits])
            for at in range(0, end, BLOCK):
                block = data[at : min(at + BLOCK, end)]
                self.wfile.write(block)
                hub.sent[file.path] += len(block)
                if fault.pause:
                    hub._closing.wait(fault.pause)
            if fault.stall_after is not None and end < len(data):
                hub._closing.wait(60)
            if end < len(data) or fault.length_off:
                self.hang_up()

        def hang_up(self) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(2)

        def send_json(self, value: object) -> None:
            self.send_body(json.dumps(value).encode(), "application/json")

        def send_body(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if self.link:
                self.send_header("Link", f'<{self.link}>; rel="next"')
                self.link = ""
            if self.etag:
                self.send_header("ETag", self.etag)
                self.etag = ""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str, text: str, *, retry_after: int | None = None, rate_limit: str = "") -> None:
            body = json.dumps({"error": text}).encode()
            self.send_response(status)
            if rate_limit:
                self.send_header("RateLimit", rate_limit)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", text)
            if retry_after is not None:
                self.send_header("Retry-After", str(retry_after))
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
