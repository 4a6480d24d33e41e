"""`enginepress verify`: is a store, file by file, what was published?"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from enginepress.cli.options import given_trust, json_option, trust_options

if TYPE_CHECKING:
    from enginepress.signing import Trust
    from enginepress.stores.store import Store


@click.command(short_help="Compare a store with its manifests.")
@click.argument("target")
@click.option("--deep", is_flag=True, help="Read and hash every byte, not only names, sizes and small files.")
@trust_options
@json_option
def verify(target: str, deep: bool, public_key: Path | None, trusted_certificates: Path | None, as_json: bool) -> None:
    """Look at releases, records, channels and signatures in TARGET: a store, STORE/MODEL, or a recipe file (all its stores).

    Ends with 1 if anything is damaged, missing, foreign, badly signed, or unsigned where a signature is required.
    """
    from enginepress.cli.bytes_bar import bytes_bar, many
    from enginepress.quantities import size_text
    from enginepress.steps.signing import stored_trust, trust_of
    from enginepress.steps.target import named_target
    from enginepress.steps.verify_store import store_bytes, verify_store

    given = given_trust(public_key, trusted_certificates)
    found = named_target(target)
    verdicts = []
    for store in found.stores:

        def trust(model: str, store: Store = store) -> Trust | None:
            return trust_of(found.recipe, given) if found.recipe else given or stored_trust(store, model)

        total = partial(store_bytes, store, found.models)
        with bytes_bar(store.url, total=total, shown=deep and not as_json) as bar:
            verdicts.append(verify_store(store, found.models, deep=deep, trust=trust, progress=bar.progress, tell=bar.tell))
    failed = any(v.troubles for v in verdicts)
    if as_json:
        click.echo(json.dumps([v.to_json() for v in verdicts], indent=2))
        sys.exit(1 if failed else 0)
    for verdict in verdicts:
        how = f"{size_text(verdict.bytes)} hashed" if deep else "names, sizes and small files compared; --deep hashes every byte"
        click.echo(f"{verdict.store}: {many(verdict.releases, 'release')} of {many(verdict.models, 'model')}, {how}")
        signed = verdict.signed("good", "bad", "unchecked")
        if signed or given:
            click.echo(f"  signed: {signed} of {verdict.releases}, good {verdict.signed('good')}, bad {verdict.signed('bad')}")
            if unchecked := verdict.signed("unchecked"):
                click.echo(f"  {many(unchecked, 'signature')} not checked: name a key with --public-key")
        for trouble in verdict.troubles:
            click.echo(click.style("  ✘ ", fg="red") + f"{trouble}")
            if trouble.fix:
                click.echo(f"      next: {trouble.fix}")
        if not verdict.troubles:
            click.echo(click.style("  ✔ ", fg="green") + "everything is as it was published")
    sys.exit(1 if failed else 0)
