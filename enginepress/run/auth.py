"""Who we are to Kubeflow's API: where a token or a session's cookie comes from, and to whom it may be shown.

Either is read when it is needed and kept in memory only: it reaches no log, record, pipeline, argument of a child or message.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from enginepress.errors import ClusterError, UsageError
from enginepress.sources.asking import is_loopback

TOKEN = "KF_PIPELINES_TOKEN"
COOKIE = "KF_PIPELINES_COOKIE"
TOKEN_COMMAND = "KF_PIPELINES_TOKEN_COMMAND"
TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH"
"""The same variable as kfp's own."""
PROJECTED = "/var/run/secrets/kubeflow/pipelines/token"
"""Where Kubeflow mounts the token of a pod's service account for its own API."""
COMMAND_SECONDS = 60
VARIABLES = {"token": TOKEN, "cookie": COOKIE}


class Token:
    """A token from one place. `value` gives it as it is now; `renew` tries for another one after it was refused."""

    where = ""
    kind = "token"
    """`cookie`: it is the header of a session."""

    def value(self) -> str:
        raise NotImplementedError

    def renew(self) -> bool:
        """Whether `value` may give something else now."""
        return False


@dataclass
class GivenToken(Token):
    """A token that was handed over."""

    text: str = field(repr=False)
    where: str = "--token"
    kind: str = "token"

    def value(self) -> str:
        return _checked(self.text, self.where, self.kind)


@dataclass
class FileToken(Token):
    """A token in a file, read anew each time: Kubernetes replaces projected ones before they expire."""

    path: Path
    kind: str = "token"
    _last: str = field(default="", repr=False)

    @property
    def where(self) -> str:  # type: ignore[override]
        return str(self.path)

    def value(self) -> str:
        try:
            self._last = _checked(self.path.read_text(encoding="utf-8"), self.where, self.kind)
        except (OSError, UnicodeDecodeError) as error:
            raise ClusterError(
                f"the {self.kind} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}",
                where=self.where,
                fix=f"name a file that holds one with --{self.kind}-file, or set {VARIABLES[self.kind]}",
            ) from None
        return self._last

    def renew(self) -> bool:
        refused = self._last
        return self.value() != refused


@dataclass
class CommandToken(Token):
    """A token that a command prints, such as `oc whoami -t`: asked once, and again when it was refused."""

    command: str
    _text: str | None = field(default=None, repr=False)

    @property
    def where(self) -> str:  # type: ignore[override]
        return f"the command '{self.command}'"

    def value(self) -> str:
        if self._text is None:
            self._text = _checked(self._ask(), self.where)
        return self._text

    def renew(self) -> bool:
        refused, self._text = self._text, None
        return self.value() != refused

    def _ask(self) -> str:
        fix = f"run it by hand (log in first: `oc login`), or set {TOKEN}"
        try:
            done = subprocess.run(
                shlex.split(self.command),
                capture_output=True,
                text=True,
                timeout=COMMAND_SECONDS,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            reason = f"it took longer than {COMMAND_SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            raise ClusterError(f"gave no token: {reason}", where=self.where, fix=fix) from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ClusterError(f"gave no token: status {done.returncode}, {said[:200]}", where=self.where, fix=fix)
        return done.stdout


def choose_token(
    token: str | None = None,
    token_file: Path | None = None,
    token_command: str | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
) -> Token | None:
    """The token that was asked for, else the environment's, else that of the pod's service account, else None.

    Raises:
        UsageError: if two were asked for.
    """
    if sum(bool(one) for one in (token, token_file, token_command)) > 1:
        raise UsageError("--token, --token-file and --token-command are three ways to one token", fix="give one of them")
    if token:
        return GivenToken(token)
    if token_file:
        return FileToken(token_file.expanduser())
    if token_command:
        return CommandToken(token_command)
    if environment.get(TOKEN):
        return GivenToken(environment[TOKEN], where=f"the environment variable {TOKEN}")
    if environment.get(TOKEN_COMMAND):
        return CommandToken(environment[TOKEN_COMMAND])
    if environment.get(TOKEN_FILE):
        return FileToken(Path(environment[TOKEN_FILE]))
    return FileToken(Path(PROJECTED)) if Path(PROJECTED).exists() else None


def choose_cookie(cookie_file: Path | None = None, *, environment: Mapping[str, str] = os.environ) -> Token | None:
    """The cookie of a session that a browser has, where a login page stands before Kubeflow (Dex, IAP): from the file that was
    named, else the environment's, else None."""
    if cookie_file:
        return FileToken(cookie_file.expanduser(), kind="cookie")
    if environment.get(COOKIE):
        return GivenToken(environment[COOKIE], where=f"the environment variable {COOKIE}", kind="cookie")
    return None


def check_may_travel(host: str, token: Token | None) -> None:
    """Raises UsageError if it would travel unencrypted through a network that is not the cluster's or this machine's own."""
    split = urlsplit(host)
    name = split.hostname or ""
    inside = "." not in name or name.endswith((".svc", ".cluster.local", ".localhost"))
    if token is not None and split.scheme == "http" and not (is_loopback(host) or inside):
        raise UsageError(
            f"a {token.kind} would travel unencrypted over http://",
            where=host,
            fix="name the host with https://; with a certificate of your own, --ca FILE",
        )


def _checked(text: str, where: str, kind: str = "token") -> str:
    text = text.strip()
    if kind == "cookie":
        text, good = text.removeprefix("Cookie:").strip(), r"[\x21-\x3c\x3e-\x7e]+=[\x20-\x7e]+"
        what = "holds something that is no cookie: NAME=VALUE on one line"
    else:
        text, good = text.removeprefix("Bearer ").strip(), r"[\x21-\x7e]+"
        what = "holds something that is no token: spaces, line breaks or letters beyond ASCII"
    if not re.fullmatch(good, text):
        raise ClusterError(
            what if text else f"holds no {kind}", where=where, fix=f"put the bare {kind} there, or set {VARIABLES[kind]}"
        )
    return text
