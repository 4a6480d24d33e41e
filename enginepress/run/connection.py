"""Which Kubeflow Pipelines, and how it is reached."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

from enginepress.errors import UsageError
from enginepress.run.auth import Token, check_may_travel, choose_cookie, choose_token
from enginepress.sources.asking import is_loopback

HOST, UI = "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_UI_ENDPOINT"
"""The same variables as kfp's own."""
CA_VARIABLES = ("KF_PIPELINES_CA", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True)
class Connection:
    """A Kubeflow Pipelines API and who we are to it.

    Attributes:
        host: the API's address, without a slash at its end.
        namespace: of the runs; None where the installation serves one namespace.
        cookie: of a session, where a login page stands before the API.
        ca: file with the certificates that are trusted instead of the public ones.
        ui: address of the user interface, if it is another one.
        proxy: between us and the host.
        connect_s, read_s: seconds that a connection, and then an answer, may take.
    """

    host: str
    namespace: str | None = None
    token: Token | None = None
    ca: Path | None = None
    ui: str = ""
    proxy: str | None = None
    connect_s: float = 10.0
    read_s: float = 60.0
    cookie: Token | None = None

    def run_url(self, run_id: str) -> str:
        """Where people look at a run."""
        return f"{self.ui or self.host}/#/runs/details/{quote(run_id, safe='')}"

    def command_options(self) -> str:
        """What a next command needs to find the same place, without secrets."""
        words = [] if os.environ.get(HOST, "").rstrip("/") == self.host else [f"--host {self.host}"]
        words += [f"--namespace {self.namespace}"] if self.namespace else []
        words += [f"--ca {self.ca}"] if self.ca and str(self.ca) not in map(os.environ.get, CA_VARIABLES) else []
        return "".join(f" {word}" for word in words)


def connect(
    host: str | None = None,
    *,
    namespace: str | None = None,
    token: str | None = None,
    token_file: Path | None = None,
    token_command: str | None = None,
    cookie_file: Path | None = None,
    ca: Path | None = None,
    ui: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Connection:
    """The connection that these values and the environment describe. Nothing is asked yet.

    Raises:
        UsageError: if no host is known, it is no address, or a token or cookie would travel unencrypted.
    """
    where = host or environment.get(HOST)
    if not where:
        raise UsageError("which Kubeflow Pipelines?", fix=f"give --host https://…, or set {HOST}")
    address = _address(where)
    chosen = choose_token(token, token_file, token_command, environment=environment)
    cookie = choose_cookie(cookie_file, environment=environment)
    for one in (chosen, cookie):
        check_may_travel(address, one)
    if ca is None:
        ca = next((Path(environment[name]) for name in CA_VARIABLES if environment.get(name)), None)
    if ca is not None and not ca.is_file():
        raise UsageError("is no file with certificates", where=str(ca), fix="name a PEM file with --ca")
    return Connection(
        address,
        namespace or None,
        chosen,
        ca,
        _address(ui or environment.get(UI) or "", "the user interface") if ui or environment.get(UI) else "",
        _proxy(address, environment),
        cookie=cookie,
    )


def pod_namespace() -> str | None:
    """The namespace of the pod that we are in, if we are in one."""
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _address(text: str, what: str = "the host") -> str:
    """As people paste it: without a scheme, with the page they look at, or with the API's path behind it."""
    text = text.strip()
    address = text if "://" in text else f"https://{text}"
    split = urlsplit(address)
    if split.username is not None:
        raise UsageError(f"the address of {what} holds a user's name", fix="leave it out, and give a token: --token-file")
    if split.scheme not in ("http", "https") or not split.hostname or re.search(r"\s", split.netloc):
        raise UsageError(f"'{text}' is no address of {what}", fix="write https://NAME[:PORT][/PATH]")
    path = re.sub(r"/apis(/v\d\w*)?/?$", "", split.path).rstrip("/")
    return f"{split.scheme}://{split.netloc}{path}"


def _proxy(address: str, environment: Mapping[str, str]) -> str | None:
    if environment is not os.environ or is_loopback(address):
        return None
    split, proxies = urlsplit(address), getproxies()
    return None if proxy_bypass(split.netloc) else proxies.get(split.scheme)
