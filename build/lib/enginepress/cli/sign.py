"""`enginepress sign`: signs releases that are published already."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Sign published releases.")
@click.argument("store")
@click.argument("model")
@click.argument("releases", type=click.IntRange(min=1), nargs=-1, required=True)
@click.option(
    "--key",
    envvar="ENGINEPRESS_SIGNING_KEY",
    show_envvar=True,
    required=True,
    type=click.Path(path_type=Path),
    help="The private key: elliptic curve, PEM.",
)
@click.option("--certificate", type=click.Path(path_type=Path), help="Its certificate, then those up to the authority, PEM.")
@click.option("--password-variable", metavar="NAME", help="Environment variable with the key's password, if it is encrypted.")
@click.option("--again", is_flag=True, help="Replace a signature that is there.")
def sign(
    store: str,
    model: str,
    releases: tuple[int, ...],
    key: Path,
    certificate: Path | None,
    password_variable: str | None,
    again: bool,
) -> None:
    """Sign RELEASES of MODEL in STORE, such as file:///srv/models tiny-llama 7.

    Before anything is signed its bytes are compared with its manifest. The signature is kept beside the release.
    """
    from enginepress.steps.signing import key_from_files, sign_published
    from enginepress.steps.target import named_store

    opened = named_store(store)
    signer = key_from_files(key, password_variable, certificate)
    for number in releases:
        if sign_published(opened, model, number, signer, again=again):
            click.echo(f"release {number} of {model} is signed")
        else:
            click.echo(f"release {number} of {model} was signed before, and stays as it is: --again signs it anew")
