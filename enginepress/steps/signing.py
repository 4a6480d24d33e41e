"""Signing releases in stores, and asking whether a release is signed by whom it must be.

A signature is a record beside the release and the same in every store, since the manifest is. Who checks decides whose
signature counts: a recipe's `signing`, or a key that a command is given. A recipe that came out of a store itself (a command
was told STORE/MODEL) says what its operators wanted, which helps against mistakes; against somebody who can write to the
store only a key from elsewhere does.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from enginepress.errors import RecipeError, SignatureError, StoreError, UsageError
from enginepress.recipe import Recipe, Signing
from enginepress.recipe_file import read_public_pem
from enginepress.signing import PEM, RECORD, Signature, SigningKey, Trust, check_signature, sign_manifest
from enginepress.stores.store import Store


def trust_of(recipe: Recipe, given: Trust | None = None) -> Trust | None:
    """Whose signature counts for this recipe; None if it says nothing about that.

    Args:
        given: named by the operator for this command, which wins.
    """
    return given or _trust(recipe.signing)


def _trust(signing: Signing) -> Trust | None:
    if signing.public_key is None and signing.trusted_certificates is None:
        return None
    return Trust(signing.public_key, signing.trusted_certificates, signing.require)


def stored_trust(store: Store, model: str) -> Trust | None:
    """What the newest readable release's recipe says. It came out of the store: see above for what that is worth."""
    for number in reversed(store.numbers(model)):
        try:
            fields = store.manifest(model, number).recipe.get("signing")
            return _trust(Signing.model_validate(fields)) if fields else None
        except (StoreError, ValueError):
            continue
    return None


def trust_from_files(public_key: Path | None, certificates: Path | None) -> Trust | None:
    """For commands: a key or certificates in files. Naming one means that signatures are required."""
    if public_key is not None and certificates is not None:
        raise UsageError("signatures are checked with a public key or with certificates, not both")
    try:
        if public_key is not None:
            return Trust(public_key=read_public_pem(public_key, "public_key"))
        if certificates is not None:
            return Trust(certificates=read_public_pem(certificates, "trusted_certificates"))
    except RecipeError as error:  # it was no recipe that named the file
        raise UsageError(
            error.message, where=error.where, fix="name a file with a public key or with certificates, PEM"
        ) from None
    return None


def require_signature(store: Store, model: str, number: int, trust: Trust | None) -> Signature | None:
    """Refuses a release that is not signed by whom it must be. Nothing is required without trust, or where it says so.

    Reads two small files. That the release's other bytes are those of its manifest is for whoever reads them to check, as
    `Store.fetch` and `Store.verify` do.

    Returns:
        Who signed it; None if no signature is required.

    Raises:
        SignatureError: there is none, or it is by somebody else, or of something else.
    """
    if trust is None or not trust.required:
        return None
    bundle = store.read_record(model, number, RECORD)
    if bundle is None:
        raise SignatureError(
            f"release {number} of {model} is not signed, and a signature is required",
            where=store.location(model, number),
            fix=f"sign it with `enginepress sign {store.url} {model} {number} --key FILE`, if you have checked what it is",
        )
    return _checked(store, model, number, bundle, trust)


@dataclass(frozen=True)
class SignatureState:
    """What is known of a release's signature.

    Attributes:
        state: `unsigned`; `unchecked`: there is one, and no key to check it with; `good`; `bad`.
        detail: who signed it, or what is wrong.
    """

    state: Literal["unsigned", "unchecked", "good", "bad"]
    detail: str = ""
    until: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def signature_state(store: Store, model: str, number: int, trust: Trust | None) -> SignatureState:
    """Of a release whose manifest can be read. Nothing is raised for a bad signature: it is a state."""
    try:
        bundle = store.read_record(model, number, RECORD)
        if bundle is None:
            return SignatureState("unsigned")
        if trust is None:
            return SignatureState("unchecked", "no key is named to check it with")
        signature = _checked(store, model, number, bundle, trust)
    except SignatureError as error:
        return SignatureState("bad", error.message)
    return SignatureState("good", signature.signer, signature.until)


def _checked(store: Store, model: str, number: int, bundle: dict[str, Any], trust: Trust) -> Signature:
    manifest = store.manifest(model, number)
    where = store.location(model, number)
    return check_signature(bundle, manifest, store.manifest_bytes(model, number), trust, where=where)


# Signing --------------------------------------------------------------------------------------------------------------


def signing_key(recipe: Recipe) -> SigningKey | None:
    """The key that the recipe names, from the environment; None if it names none.

    Raises:
        RecipeError: if the variable is not set, or names a file that cannot be read.
    """
    signing = recipe.signing
    if signing.key is None:
        return None
    value = _variable(signing.key, "key")
    password = _variable(signing.password, "password") if signing.password else None
    pem = value.encode() if value.lstrip().startswith(PEM) else _read_key(Path(value), "signing.key")
    return SigningKey(pem, password, signing.certificate)


def key_from_files(key: Path, password_variable: str | None, certificate: Path | None) -> SigningKey:
    """For commands: a key in a file, or in PEM text, if its environment variable holds that."""
    password = os.environ.get(password_variable) if password_variable else None
    if password_variable and not password:
        raise UsageError(f"the environment variable {password_variable} is not set", where="--password-variable")
    text = read_public_pem(certificate, "certificate") if certificate is not None else None
    pem = str(key).encode() if str(key).startswith(PEM) else _read_key(key, "--key")
    return SigningKey(pem, password, text)


def sign_release(store: Store, model: str, number: int, key: SigningKey) -> dict[str, Any]:
    """Signs what the manifest says, and keeps the signature beside the release. Returns it.

    Raises:
        StoreError: no such release, a damaged manifest, or a store that cannot be written.
        UsageError: for a key that cannot sign.
    """
    manifest = store.manifest(model, number)
    bundle = sign_manifest(manifest, store.manifest_bytes(model, number), key)
    store.write_record(model, number, RECORD, bundle)
    return bundle


def sign_published(store: Store, model: str, number: int, key: SigningKey, *, again: bool = False) -> bool:
    """Signs a release that an operator names, after comparing its bytes with its manifest. Returns whether it did.

    Args:
        again: replace a signature that is there.

    Raises:
        StoreError: no such release, or one that is not what was published: a signature would vouch for that.
    """
    different = store.verify(model, number)
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise StoreError(
            f"release {number} of {model} is damaged ({different[0]}{more}), so it is not signed",
            where=store.location(model, number),
            fix="restore it from another store or a backup",
        )
    if store.read_record(model, number, RECORD) is not None and not again:
        return False
    sign_release(store, model, number, key)
    return True


def sign_where_wanted(recipe: Recipe, stores: list[Store], number: int) -> bool:
    """Signs the release in the primary store, once, if the recipe names a key; the other stores get the same signature."""
    primary, *others = stores
    bundle = primary.read_record(recipe.name, number, RECORD)
    made = False
    if bundle is None:
        key = signing_key(recipe)
        if key is None:
            return False
        bundle = sign_release(primary, recipe.name, number, key)
        made = True
    for store in others:
        if number in store.numbers(recipe.name) and store.read_record(recipe.name, number, RECORD) is None:
            store.write_record(recipe.name, number, RECORD, bundle)
    return made


def unsigned(recipe: Recipe, stores: list[Store], number: int) -> bool:
    """Whether `sign_where_wanted` has something to do. Reads small records only."""
    primary, *others = stores
    signed = primary.read_record(recipe.name, number, RECORD) is not None
    if not signed:
        return recipe.signing.key is not None
    there = (s for s in others if number in s.numbers(recipe.name))
    return any(s.read_record(recipe.name, number, RECORD) is None for s in there)


def _variable(reference: str, field: str) -> str:
    name = reference.removeprefix("${").removesuffix("}")
    value = os.environ.get(name)
    if not value:
        raise RecipeError(
            f"names the environment variable {name}, which is not set", where=f"signing.{field}", fix=f"export {name}"
        )
    return value


def _read_key(path: Path, where: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        # The variable may hold something that is no path at all: a secret is not shown.
        shown = str(path) if where == "--key" else "the file that its variable names"
        raise UsageError(f"{shown} cannot be read: {error.strerror}", where=where) from None
