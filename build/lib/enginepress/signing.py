"""Signatures of releases: OpenSSF model signatures (PyPI `model-signing`), made and checked without reading a weight twice.

    releases/7/records/signature.json     a sigstore bundle, v0.3: DSSE envelope around an in-toto statement

The statement names `manifest.json` and every file below `repository/` with its sha256, as upstream's own tool would after
hashing the release's folder. Here the digests are the manifest's: publish computed them from the bytes that it wrote, and
whoever fetches or verifies a release compares its bytes with them. So one signature over the manifest's bytes holds for every
byte of the release, and `model_signing verify` says the same as `enginepress verify`:

    model_signing verify key STORE/MODEL/releases/7 --signature STORE/MODEL/releases/7/records/signature.json --public_key K

Keys are elliptic-curve ones (P-256, P-384, P-521): all that the format has. Upstream takes paths of keys, so a key that came
from the environment, or is encrypted, reaches it through memory and never lies on a disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginepress.canonical import sha256_hex
from enginepress.errors import RecipeError, SignatureError, UsageError
from enginepress.manifest import Manifest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate
    from model_signing.hashing import Config

RECORD = "signature"
PEM = "-----BEGIN "
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_MAKE_KEY = "make one with `openssl ecparam -name prime256v1 -genkey -noout -out release.key`"


@dataclass(frozen=True)
class Trust:
    """Whose signature counts: one public key, or whoever has a code-signing certificate of an authority.

    Attributes:
        public_key: PEM text.
        certificates: PEM text of the trusted authorities.
        required: releases without a good signature are refused. Where it is False a signature is looked at and reported only.
    """

    public_key: str | None = None
    certificates: str | None = None
    required: bool = True


@dataclass(frozen=True)
class SigningKey:
    """What signs.

    Attributes:
        pem: the private key, PEM.
        password: of the key, if it is encrypted.
        certificate: PEM text: the signer's certificate, then those between it and the authority; None to sign with the bare key.
    """

    pem: bytes
    password: str | None = None
    certificate: str | None = None

    def __repr__(self) -> str:
        return "SigningKey(…)"


@dataclass(frozen=True)
class Signature:
    """A signature that was checked.

    Attributes:
        signer: the certificate's subject, or the first digits of the key's sha256.
        until: when the certificate ends, UTC, ISO 8601; None for a key.
    """

    signer: str
    until: str | None = None


# Signing --------------------------------------------------------------------------------------------------------------


def sign_manifest(manifest: Manifest, text: bytes, key: SigningKey) -> dict[str, Any]:
    """The signature of a release, as the JSON object that is kept beside it.

    Args:
        text: the manifest's bytes as they are stored.

    Raises:
        UsageError: for a key or certificate that cannot sign.
    """
    private = _private_key(key)
    signing = _upstream("signing")
    config = signing.Config().set_hashing_config(_known_digests(manifest, text))
    with contextlib.ExitStack() as stack:
        private_path = stack.enter_context(_in_memory(_unencrypted(private)))
        if key.certificate is None:
            config.use_elliptic_key_signer(private_key=private_path)
        else:
            leaf, *between = _certificates(key.certificate, "certificate")
            _check_usage(leaf, UsageError)
            if leaf.public_key() != private.public_key():
                raise UsageError("is not the certificate of the key that signs", where="signing.certificate")
            config.use_certificate_signer(
                private_key=private_path,
                signing_certificate=stack.enter_context(_in_memory(_pem(leaf))),
                # Upstream cannot do with none; the signer's own, twice in the signature, proves nothing more and nothing less.
                certificate_chain=[stack.enter_context(_in_memory(b"".join(map(_pem, between or [leaf]))))],
            )
        target = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "signature.json"
        config.sign(Path(f"{manifest.model} release {manifest.release}"), target)
        bundle: dict[str, Any] = json.loads(target.read_bytes())
        return bundle


def _private_key(key: SigningKey) -> EllipticCurvePrivateKey:
    _upstream("signing")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        found = load_pem_private_key(key.pem, key.password.encode() if key.password else None)
    except TypeError:
        said = "is not encrypted, and a password was given" if key.password else "is encrypted, and no password was given"
        raise UsageError(f"the signing key {said}", fix="name the variable with its password in signing.password") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        said = "wrong password, or damaged" if key.password else str(error).splitlines()[0][:200]
        raise UsageError(f"the signing key cannot be read: {said}", fix=_MAKE_KEY) from None
    if not isinstance(found, EllipticCurvePrivateKey) or found.curve.name not in _CURVES:
        raise UsageError(f"the signing key is no elliptic-curve key of {', '.join(_CURVES)}", fix=_MAKE_KEY)
    return found


def _unencrypted(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


# Checking -------------------------------------------------------------------------------------------------------------


def check_signature(bundle: Mapping[str, Any], manifest: Manifest, text: bytes, trust: Trust, *, where: str) -> Signature:
    """Who signed a release, if it is somebody who is trusted, and it is this very release.

    Args:
        bundle: the record beside the release.
        text: the manifest's bytes as they are stored.
        where: the release, for messages.

    Raises:
        SignatureError: for a signature by somebody else, of something else, or of no known form.
    """
    verifying = _upstream("verifying")
    config = verifying.Config().set_hashing_config(_known_digests(manifest, text))
    signed = _signed_names(bundle, where)
    signer = _certificate_of(bundle, where) if trust.certificates is not None else None
    with contextlib.ExitStack() as stack:
        if trust.certificates is not None and signer is not None:
            authorities = b"".join(map(_pem, _certificates(trust.certificates, "trusted_certificates")))
            config.use_certificate_verifier(certificate_chain=[stack.enter_context(_in_memory(authorities))])
            found = Signature(signer.subject.rfc4514_string(), _until(signer))
        elif trust.public_key is not None:
            found = Signature(f"key {_check_key(bundle, trust.public_key, where)[:12]}")
            config.use_elliptic_key_verifier(public_key=stack.enter_context(_in_memory(trust.public_key.encode())))
        else:
            raise UsageError("no key is named to check signatures with", fix=_NAME_KEY)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "signature.json"
        path.write_text(json.dumps(bundle), encoding="utf-8")
        try:
            with contextlib.redirect_stdout(None):
                config.verify(Path(folder), path)
        except Exception as error:  # upstream lets pass what each of its five libraries raises
            raise _refused(error, manifest, text, signed, where) from None
    if signer is not None:
        _check_usage(signer, SignatureError, where=where)
    return found


_NAME_KEY = "name `signing.public_key` or `signing.trusted_certificates` in the recipe, or give --public-key FILE"
_SIGN = "sign it with `enginepress sign STORE MODEL RELEASE --key FILE`, if you have checked what it is"


def _refused(error: Exception, manifest: Manifest, text: bytes, signed: Mapping[str, str], where: str) -> SignatureError:
    """What a signature that does not hold means here."""
    name = f"release {manifest.release} of {manifest.model}"
    if "Signature mismatch" in str(error):
        wanted = _digests(manifest, text)
        wrong = sorted(path for path in {*signed, *wanted} if signed.get(path) != wanted.get(path))
        if "manifest.json" in wrong:
            return SignatureError(
                f"the signature is not that of {name}: it was made for another manifest, or this manifest was changed since",
                where=where,
                fix=f"restore the release and its records from another store or a backup; or {_SIGN}",
            )
        return SignatureError(f"the signature of {name} is for other files: {', '.join(wrong[:5])}", where=where, fix=_SIGN)
    reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")[:200]
    known = {
        "InvalidSignature": "the bytes that it signs were changed, or another key made it",
        "X509StoreContextError": f"its certificate is not from a trusted authority ({error})",
    }
    return SignatureError(
        f"the signature of {name} does not hold: {known.get(type(error).__name__, reason)}", where=where, fix=_SIGN
    )


def _check_key(bundle: Mapping[str, Any], public_key: str, where: str) -> str:
    """sha256 of the trusted key, which the bundle must name."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = _public_key(public_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    wanted = sha256_hex(pem)
    material = bundle.get("verificationMaterial")
    key = material.get("publicKey") if isinstance(material, dict) else None
    hint = key.get("hint") if isinstance(key, dict) else None
    if hint != wanted:
        by = f"the key {str(hint)[:12]}" if hint else "a certificate" if key is None else "a key that it does not name"
        raise SignatureError(f"is signed by {by}, not by the trusted key {wanted[:12]}", where=where, fix=_SIGN)
    return wanted


def _public_key(pem: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        said = "it is a private key" if "PRIVATE KEY" in pem else str(error).splitlines()[0][:200]
        raise RecipeError(f"is no public key: {said}", where="signing.public_key", fix=_PUBLIC) from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise RecipeError(f"is no elliptic-curve key of {', '.join(_CURVES)}", where="signing.public_key", fix=_PUBLIC)
    return key


_PUBLIC = "write it with `openssl ec -in release.key -pubout -out release.pub`"


def _signed_names(bundle: Mapping[str, Any], where: str) -> dict[str, str]:
    """The files that the statement names, and their digests. Says nothing about who signed it."""
    import base64

    try:
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        return {str(r["name"]): str(r["digest"]) for r in statement["predicate"]["resources"]}
    except (KeyError, TypeError, ValueError, RecursionError):
        raise SignatureError("is not the signature of a release: it has no statement in it", where=where, fix=_SIGN) from None


# Certificates ---------------------------------------------------------------------------------------------------------


def _certificates(pem: str, field: str) -> list[Certificate]:
    _upstream("signing")
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise RecipeError(f"holds no certificate: {str(error).splitlines()[0][:200]}", where=f"signing.{field}") from None


def _certificate_of(bundle: Mapping[str, Any], where: str) -> Certificate:
    import base64

    from cryptography.x509 import load_der_x509_certificate

    try:
        chain = bundle["verificationMaterial"]["x509CertificateChain"]["certificates"]
        return load_der_x509_certificate(base64.b64decode(chain[0]["rawBytes"]))
    except (KeyError, TypeError, ValueError, IndexError):
        raise SignatureError("is not signed with a certificate, and one is wanted", where=where, fix=_SIGN) from None


def _check_usage(certificate: Certificate, kind: type[SignatureError] | type[UsageError], *, where: str | None = None) -> None:
    """What upstream leaves to its callers: it takes certificates for any use, and ended ones."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    name = certificate.subject.rfc4514_string()
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        signs = ExtendedKeyUsageOID.CODE_SIGNING in usage
    except x509.ExtensionNotFound:
        signs = False
    if not signs:
        raise kind(f"the certificate of {name} is not for code signing (extended key usage codeSigning)", where=where)
    if not certificate.not_valid_before_utc <= datetime.now(timezone.utc) <= certificate.not_valid_after_utc:
        between = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
        fix = "renew it, and sign the release again with `enginepress sign`"
        raise kind(f"the certificate of {name} is valid from {between}, not today", where=where, fix=fix)


def _until(certificate: Certificate) -> str:
    return certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def _pem(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


# Upstream -------------------------------------------------------------------------------------------------------------


def _digests(manifest: Manifest, text: bytes) -> dict[str, str]:
    """Every file of the release that a signature covers, relative to the release's folder."""
    return {"manifest.json": sha256_hex(text), **{f"repository/{e.path}": e.sha256 for e in manifest.files}}


def _known_digests(manifest: Manifest, text: bytes) -> Config:
    """What upstream would find by hashing the release's folder."""
    hashing = _upstream("hashing")
    import model_signing.manifest as upstream
    from model_signing._hashing.hashing import Digest

    kind = upstream.SerializationType.from_args(
        {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": ["records"]}
    )
    items = [kind.new_item(path, Digest("sha256", bytes.fromhex(d))) for path, d in _digests(manifest, text).items()]
    found = upstream.Manifest(f"{manifest.model} release {manifest.release}", items, kind)

    class Known(hashing.Config):  # type: ignore[misc, name-defined]
        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> Any:
            return found

    known: Config = Known()
    return known


def _upstream(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:
        raise UsageError(
            f"signatures need the package model-signing, which cannot be imported here: {error}",
            fix="pip install 'enginepress[signing]'",
        ) from None


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[Path]:
    """A path to bytes that are on no disk."""
    handle = os.memfd_create("enginepress")
    try:
        os.write(handle, data)
        yield Path(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
