"""`enginepress completion`: the script that completes commands in a shell."""

from __future__ import annotations

import click


@click.command(short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  enginepress completion bash > ~/.local/share/bash-completion/completions/enginepress
    zsh:   enginepress completion zsh > "${fpath[1]}/_enginepress"
    fish:  enginepress completion fish > ~/.config/fish/completions/enginepress.fish
    """
    from click.shell_completion import get_completion_class

    from enginepress.cli.app import app

    completer = get_completion_class(shell)
    assert completer is not None
    click.echo(completer(app, {}, "enginepress", "_ENGINEPRESS_COMPLETE").source())
