"""Signatures of releases: made by the real model-signing, checked by us and by its own command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from enginepress.errors import RecipeError, SignatureError, StoreError, UsageError
from enginepress.manifest import Manifest
from enginepress.signing import RECORD, Trust
from enginepress.steps.signing import (
    key_from_files,
    require_signature,
    sign_published,
    sign_release,
    signature_state,
    trust_from_files,
)
from enginepress.stores.filesystem import FileStore
from tests.stores.parts import MODEL
from tests.trust.keys import PASSWORD, Authority, KeyPair, strange_key, write_pair


def trusted(pair: KeyPair) -> Trust:
    found = trust_from_files(pair.public, None)
    assert found is not None
    return found


def sign(store: FileStore, number: int, pair: KeyPair) -> None:
    sign_release(store, MODEL, number, key_from_files(pair.private, None, None))


def release(store: FileStore, number: int = 1) -> Path:
    return store.root / MODEL / "releases" / str(number)


def upstream(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`model_signing`, as anybody has it who has never heard of enginepress."""
    program = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


# Good signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_a_signed_release_is_good_to_us_and_to_the_upstream_command(
    store: FileStore, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    pair = write_pair(tmp_path / "keys", "release", ec.generate_private_key(curve))
    sign(store, 1, pair)
    signature = require_signature(store, MODEL, 1, trusted(pair))
    assert signature is not None
    assert signature.signer.startswith("key ")
    record = release(store) / "records" / f"{RECORD}.json"
    done = upstream("verify", "key", release(store), "--signature", record, "--public_key", pair.public)
    assert done.returncode == 0, done.stderr
    assert "succeeded" in done.stderr + done.stdout


def test_the_upstream_command_sees_a_changed_byte_and_a_foreign_file(store: FileStore, pair: KeyPair) -> None:
    sign(store, 1, pair)
    record = release(store) / "records" / f"{RECORD}.json"
    verify = ("verify", "key", release(store), "--signature", record, "--public_key", pair.public)
    foreign = release(store) / "repository" / "foreign.bin"
    foreign.write_bytes(b"x")
    assert "foreign.bin" in upstream(*verify).stderr
    foreign.unlink()
    assert upstream(*verify).returncode == 0
    weights = release(store) / "repository/tiny/1/engine/part0.bin"
    weights.chmod(0o644)
    weights.write_bytes(b"evil")
    assert "part0.bin" in upstream(*verify).stderr


def test_what_the_upstream_command_signed_is_good_to_us(store: FileStore, pair: KeyPair, tmp_path: Path) -> None:
    """A release can be signed on a machine without enginepress."""
    target = tmp_path / "signature.json"
    arguments = ("--private_key", pair.private, "--signature", target, "--ignore-paths", release(store) / "records")
    done = upstream("sign", "key", release(store), *arguments)
    assert done.returncode == 0, done.stderr
    store.write_record(MODEL, 1, RECORD, json.loads(target.read_bytes()))
    assert require_signature(store, MODEL, 1, trusted(pair)) is not None


def test_an_encrypted_key_signs_with_its_password_and_is_on_no_disk_without(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = write_pair(tmp_path / "keys", "release", password=PASSWORD)
    with pytest.raises(UsageError, match="is encrypted, and no password was given"):
        sign(store, 1, pair)
    monkeypatch.setenv("KEY_PASSWORD", "wrong")
    with pytest.raises(UsageError, match="wrong password"):
        sign_release(store, MODEL, 1, key_from_files(pair.private, "KEY_PASSWORD", None))
    monkeypatch.setenv("KEY_PASSWORD", PASSWORD)
    key = key_from_files(pair.private, "KEY_PASSWORD", None)
    assert PASSWORD not in repr(key)
    sign_release(store, MODEL, 1, key)
    assert require_signature(store, MODEL, 1, trusted(pair)) is not None


def test_a_signature_is_the_same_good_one_in_a_copy_of_the_store(store: FileStore, pair: KeyPair, tmp_path: Path) -> None:
    sign(store, 1, pair)
    shutil.copytree(store.root, tmp_path / "copy", symlinks=True)
    assert require_signature(FileStore(tmp_path / "copy"), MODEL, 1, trusted(pair)) is not None


# Refusals -------------------------------------------------------------------------------------------------------------


def test_without_trust_or_where_nothing_is_required_a_release_needs_no_signature(store: FileStore, pair: KeyPair) -> None:
    assert require_signature(store, MODEL, 1, None) is None
    assert require_signature(store, MODEL, 1, Trust(public_key=pair.public.read_text(), required=False)) is None


def test_a_release_without_a_signature_is_refused_with_the_command_that_signs_it(store: FileStore, pair: KeyPair) -> None:
    with pytest.raises(SignatureError, match="release 1 of tiny is not signed") as caught:
        require_signature(store, MODEL, 1, trusted(pair))
    assert f"enginepress sign {store.url} tiny 1 --key" in str(caught.value.fix)


def test_a_signature_by_another_key_is_refused_naming_both(store: FileStore, pair: KeyPair, tmp_path: Path) -> None:
    sign(store, 1, write_pair(tmp_path / "keys", "mallory"))
    with pytest.raises(SignatureError, match=r"is signed by the key [0-9a-f]{12}, not by the trusted key [0-9a-f]{12}"):
        require_signature(store, MODEL, 1, trusted(pair))


def test_another_key_that_claims_to_be_the_trusted_one_is_refused(store: FileStore, pair: KeyPair, tmp_path: Path) -> None:
    sign(store, 1, pair)
    hint = store.read_record(MODEL, 1, RECORD)["verificationMaterial"]["publicKey"]["hint"]  # type: ignore[index]
    sign(store, 1, write_pair(tmp_path / "keys", "mallory"))
    forged = store.read_record(MODEL, 1, RECORD)
    assert forged is not None
    forged["verificationMaterial"]["publicKey"]["hint"] = hint
    store.write_record(MODEL, 1, RECORD, forged)
    with pytest.raises(SignatureError, match="the bytes that it signs were changed, or another key made it"):
        require_signature(store, MODEL, 1, trusted(pair))


def test_the_signature_of_another_release_is_refused(store: FileStore, pair: KeyPair) -> None:
    sign(store, 1, pair)
    bundle = store.read_record(MODEL, 1, RECORD)
    assert bundle is not None
    store.write_record(MODEL, 2, RECORD, bundle)
    with pytest.raises(SignatureError, match="the signature is not that of release 2 of tiny"):
        require_signature(store, MODEL, 2, trusted(pair))


def tampered(manifest: Manifest) -> Manifest:
    """A manifest with a right digest of its own, for a file that somebody changed."""
    first, *rest = manifest.files
    changed = type(first)(first.path, first.size, "0" * 64)
    return type(manifest)(**{**vars(manifest), "files": (changed, *rest)})


def test_a_manifest_that_was_rewritten_with_a_right_digest_is_refused(store: FileStore, pair: KeyPair) -> None:
    """Its own digest is against accidents; against somebody who can compute one it is the signature that helps."""
    sign(store, 1, pair)
    path = release(store) / "manifest.json"
    path.chmod(0o644)
    path.write_text(tampered(store.manifest(MODEL, 1)).to_text())
    assert store.manifest(MODEL, 1).release == 1, "the manifest agrees with itself"
    with pytest.raises(SignatureError, match="made for another manifest, or this manifest was changed since"):
        require_signature(store, MODEL, 1, trusted(pair))


def test_a_manifest_with_one_space_more_is_refused(store: FileStore, pair: KeyPair) -> None:
    sign(store, 1, pair)
    path = release(store) / "manifest.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    assert signature_state(store, MODEL, 1, trusted(pair)).state == "bad"


def _without(*names: str) -> Callable[[dict], None]:  # type: ignore[type-arg]
    def change(bundle: dict) -> None:  # type: ignore[type-arg]
        for name in names[:-1]:
            bundle = bundle[name]
        del bundle[names[-1]]

    return change


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b.clear(),
        _without("dsseEnvelope"),
        _without("dsseEnvelope", "signatures"),
        _without("verificationMaterial"),
        _without("mediaType"),
        lambda b: b.update(dsseEnvelope={"payload": 7}),
        lambda b: b.update(dsseEnvelope=[]),
        lambda b: b["dsseEnvelope"].update(payload="bm90IGpzb24="),
        lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
        lambda b: b["dsseEnvelope"].update(signatures=[]),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
        lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=None),
        lambda b: b["verificationMaterial"].update(publicKey=None),
        lambda b: b["verificationMaterial"]["publicKey"].pop("hint"),
        lambda b: b.update(mediaType="application/x"),
    ],
)
def test_a_damaged_signature_is_refused_and_never_a_traceback(
    store: FileStore,
    pair: KeyPair,
    damage: Callable[[dict], None],  # type: ignore[type-arg]
) -> None:
    sign(store, 1, pair)
    bundle = store.read_record(MODEL, 1, RECORD)
    assert bundle is not None
    damage(bundle)
    store.write_record(MODEL, 1, RECORD, bundle)
    with pytest.raises(SignatureError):
        require_signature(store, MODEL, 1, trusted(pair))
    state = signature_state(store, MODEL, 1, trusted(pair))
    assert (state.state, bool(state.detail)) == ("bad", True)


@pytest.mark.parametrize("kind", ["rsa", "ed25519", "secp256k1"])
def test_keys_that_the_format_does_not_have_are_refused_on_both_sides(store: FileStore, tmp_path: Path, kind: str) -> None:
    pair = write_pair(tmp_path / "keys", kind, strange_key(kind))
    with pytest.raises(UsageError, match="no elliptic-curve key of"):
        sign(store, 1, pair)
    sign(store, 1, write_pair(tmp_path / "keys", "release"))
    with pytest.raises(RecipeError, match="no elliptic-curve key of"):
        require_signature(store, MODEL, 1, trusted(pair))


def test_a_private_key_in_place_of_a_public_one_is_refused_before_it_travels(pair: KeyPair) -> None:
    with pytest.raises(UsageError, match="holds a private key"):
        trust_from_files(pair.private, None)


def test_a_wrong_file_for_an_option_is_not_blamed_on_a_recipe(pair: KeyPair, tmp_path: Path) -> None:
    for file in (pair.private, tmp_path / "nothing.pub"):
        with pytest.raises(UsageError) as caught:
            trust_from_files(file, None)
        assert "recipe" not in str(caught.value.fix)


def test_a_damaged_release_is_not_signed_by_an_operator(store: FileStore, pair: KeyPair) -> None:
    weights = release(store) / "repository/tiny/1/engine/part0.bin"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[::-1])
    with pytest.raises(StoreError, match=r"part0\.bin is not what was published.*so it is not signed"):
        sign_published(store, MODEL, 1, key_from_files(pair.private, None, None))
    assert store.read_record(MODEL, 1, RECORD) is None


# Certificates ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki", "models")


def sign_certified(store: FileStore, key: Path, certificate: Path) -> None:
    sign_release(store, MODEL, 1, key_from_files(key, None, certificate))


def test_whoever_an_authority_certifies_for_code_signing_is_trusted_and_named(store: FileStore, authority: Authority) -> None:
    sign_certified(store, *authority.certify("ana"))
    trust = trust_from_files(None, authority.file)
    signature = require_signature(store, MODEL, 1, trust)
    assert signature is not None
    assert signature.signer == "CN=ana"
    assert signature.until is not None
    record = release(store) / "records" / f"{RECORD}.json"
    done = upstream("verify", "certificate", release(store), "--signature", record, "--certificate_chain", authority.file)
    assert done.returncode == 0, done.stderr


def test_a_signer_of_another_authority_is_refused(store: FileStore, authority: Authority, tmp_path: Path) -> None:
    sign_certified(store, *Authority(tmp_path / "other", "models").certify("ana"))
    with pytest.raises(SignatureError, match="its certificate is not from a trusted authority"):
        require_signature(store, MODEL, 1, trust_from_files(None, authority.file))


def test_a_certificate_for_something_else_neither_signs_nor_counts(
    store: FileStore, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream takes a web server's certificate."""
    key, certificate = authority.certify("web", code_signing=False)
    with pytest.raises(UsageError, match="CN=web is not for code signing"):
        sign_certified(store, key, certificate)
    with monkeypatch.context() as patch:
        patch.setattr("enginepress.signing._check_usage", lambda *_a, **_k: None)
        sign_certified(store, key, certificate)
    with pytest.raises(SignatureError, match="CN=web is not for code signing"):
        require_signature(store, MODEL, 1, trust_from_files(None, authority.file))


@pytest.mark.parametrize("days", [(-30, -1), (1, 30)], ids=["ended", "not yet valid"])
def test_a_certificate_that_is_not_valid_today_neither_signs_nor_counts(
    store: FileStore, authority: Authority, monkeypatch: pytest.MonkeyPatch, days: tuple[int, int]
) -> None:
    """Upstream sets its clock to the certificate's first day."""
    authority_days = authority.certify("ana", days=days)
    with pytest.raises(UsageError, match="not today"):
        sign_certified(store, *authority_days)
    with monkeypatch.context() as patch:
        patch.setattr("enginepress.signing._check_usage", lambda *_a, **_k: None)
        sign_certified(store, *authority_days)
    with pytest.raises(SignatureError):
        require_signature(store, MODEL, 1, trust_from_files(None, authority.file))


def test_a_bare_key_does_not_do_where_a_certificate_is_wanted_nor_the_other_way_round(
    store: FileStore, authority: Authority, pair: KeyPair
) -> None:
    sign(store, 1, pair)
    with pytest.raises(SignatureError, match="is not signed with a certificate"):
        require_signature(store, MODEL, 1, trust_from_files(None, authority.file))
    sign_certified(store, *authority.certify("ana"))
    with pytest.raises(SignatureError, match="is signed by a certificate, not by the trusted key"):
        require_signature(store, MODEL, 1, trusted(pair))


def test_the_certificate_of_another_key_does_not_sign(store: FileStore, authority: Authority, pair: KeyPair) -> None:
    _, certificate = authority.certify("ana")
    with pytest.raises(UsageError, match="is not the certificate of the key that signs"):
        sign_certified(store, pair.private, certificate)
