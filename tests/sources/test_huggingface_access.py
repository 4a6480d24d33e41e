"""hf://: who may see what, what is said where somebody may not, and that no error holds a secret."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from enginepress.errors import EnginepressError, RecipeError, SourceError
from tests.sources.hub_server import Fault, HubServer
from tests.sources.tiny import checkpoint
from tests.sources.tiny_repo import REPO
from tests.sources.tiny_repo import fetch_file as _fetch
from tests.sources.tiny_repo import open_repo as _open

TOKEN = "hf_thisTokenIsSecret"


def test_the_token_is_sent_to_the_hub_and_not_to_where_it_redirects(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.add_repo(REPO, checkpoint(), token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = _open()
    _fetch(source, source.resolve(), "model.safetensors", tmp_path)
    seen = {r.path.split("/")[1]: r.token for r in hub.requests}
    assert seen == {"api": TOKEN, "org": TOKEN, "cdn": None}


def test_a_token_named_by_the_recipe_is_used_instead_of_hf_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo(REPO, checkpoint(), token=TOKEN)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    monkeypatch.setenv("TEAM_TOKEN", TOKEN)
    assert _open(token="${TEAM_TOKEN}").resolve().files
    assert {r.token for r in hub.requests} == {TOKEN}


def test_a_named_token_that_is_not_set_is_an_error_of_the_recipe(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEAM_TOKEN", raising=False)
    with pytest.raises(RecipeError, match="TEAM_TOKEN") as caught:
        _open(token="${TEAM_TOKEN}").resolve()
    assert caught.value.where == "source.token"
    assert hub.requests == []


def _refused(work: Callable[[], object]) -> EnginepressError:
    with pytest.raises(SourceError) as caught:
        work()
    return caught.value


def test_who_may_not_see_a_repository_is_told_so_and_what_to_do(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo(REPO, checkpoint(), token="hf_owner")
    error = _refused(lambda: _open().resolve())
    assert "does not exist, or is private" in error.message
    assert "HF_TOKEN" in (error.fix or "")
    assert error.where == f"{hub.url}/{REPO}"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert "does not exist, or this token may not see it" in _refused(lambda: _open().resolve()).message
    assert "does not exist" in _refused(lambda: _open(repo="org/other").resolve()).message


def test_an_unknown_revision_is_named(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    assert "no branch, tag or commit 'v9'" in _refused(lambda: _open("v9").resolve()).message


def test_a_gated_repository_says_where_to_accept_its_terms(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add_repo(REPO, checkpoint(), gated=True)
    source = _open()
    revision = source.resolve()
    error = _refused(lambda: source.read(revision, "config.json"))
    assert "is gated, and no valid token was sent" in error.message
    assert f"{hub.url}/{REPO}" in (error.fix or "")
    assert "HF_TOKEN" in (error.fix or "")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    source = _open()
    error = _refused(lambda: source.read(revision, "config.json"))
    assert "has not been let in" in error.message
    assert f"{hub.url}/{REPO}" in (error.fix or "")
    hub.accept(REPO, TOKEN)
    assert source.read(revision, "config.json")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_mode_is_said_to_be_the_reason(name: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    error = _refused(lambda: _open().resolve())
    assert "HF_HUB_OFFLINE is set" in error.message
    assert "file://" in (error.fix or "")
    assert hub.requests == []


def test_a_refused_connection_is_said_with_the_address(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    error = _refused(lambda: _open().resolve())
    assert "refused" in error.message.lower()
    assert (error.where or "").startswith(address)
    assert "HF_ENDPOINT" in (error.fix or "")


def test_a_hub_that_does_not_answer_is_given_up_after_the_timeout(hub: HubServer) -> None:
    hub.add_repo(REPO, checkpoint())
    hub.faults.append(Fault("/api/*", delay=2, times=-1))
    source = _open()
    source._client.http.timeout = 0.2
    start = time.monotonic()
    error = _refused(source.resolve)
    assert "no answer within 0.2 s" in error.message
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("endpoint", ["localhost:80", "ftp://x", "http://", "nonsense"])
def test_an_endpoint_that_is_no_address_is_refused_naming_the_variable(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert _refused(lambda: _open()).where == "HF_ENDPOINT"


def _situations(hub: HubServer) -> list[Callable[[], object]]:
    """Ways to fail, each with a token in play."""
    hub.add_repo(REPO, checkpoint(), gated=True)
    hub.add_repo("org/private", checkpoint(), token="hf_owner")
    hub.add_repo("org/broken", checkpoint())
    revision = _open(repo="org/broken").resolve()
    hub.faults += [
        Fault("model.safetensors", cut_after=0, times=-1),
        Fault("tokenizer.json", corrupt_at=5, times=-1),
        Fault("config.json", status=503, times=-1),
    ]
    return [
        lambda: _open(repo="org/none").resolve(),
        lambda: _open(repo="org/private").resolve(),
        lambda: _open("v9", repo="org/broken").resolve(),
        lambda: _open().read(_open().resolve(), "config.json"),
        *(lambda path=path: _open(repo="org/broken").read(revision, path) for path in ("config.json", "tokenizer.json")),
        lambda: _open(repo="org/broken").read(revision, "model.safetensors"),
    ]


def test_no_error_holds_a_token_a_password_or_a_signature(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_ENDPOINT", hub.url.replace("http://", "http://mirror:pass-word@"))
    for situation in _situations(hub):
        error = _refused(situation)
        text = json.dumps(error.to_json()) + repr(error) + repr(error.__cause__)
        assert TOKEN not in text
        assert "pass-word" not in text
        assert "secret-signature" not in text


@pytest.mark.parametrize("token", ["hf_secret with space", "hf_secret\nx", "hf_sécret"])
def test_a_token_that_cannot_be_one_is_refused_without_being_shown(
    token: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_TOKEN", token)
    error = _refused(lambda: _open(token="${TEAM_TOKEN}").resolve())
    assert error.where == "TEAM_TOKEN"
    assert "hf_s" not in json.dumps(error.to_json(), ensure_ascii=False)
