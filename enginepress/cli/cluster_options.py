"""Options of every command that talks to Kubeflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from enginepress.run.connection import Connection

NAMES = ("host", "namespace", "token", "token_file", "token_command", "cookie_file", "ca", "ui")


def cluster_options(command: Any) -> Any:
    """Where Kubeflow is, and who we are to it."""
    for option in reversed(
        (
            click.option("--host", metavar="URL", help="Kubeflow Pipelines.  [default: $KF_PIPELINES_ENDPOINT]"),
            click.option("--namespace", "-n", metavar="NAME", help="Yours, where Kubeflow serves several."),
            click.option("--experiment", metavar="NAME", default="enginepress", show_default=True, help="Where runs are listed."),
            click.option("--token", metavar="TOKEN", help="Better in $KF_PIPELINES_TOKEN: others see a process's arguments."),
            click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE", help="Read anew for each request."),
            click.option("--token-command", metavar="COMMAND", help="Prints a token, as 'oc whoami -t'."),
            click.option(
                "--cookie-file",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Cookie of a browser that is logged in, as NAME=VALUE. Or $KF_PIPELINES_COOKIE.",
            ),
            click.option("--ca", type=click.Path(path_type=Path), metavar="FILE", help="Certificates to trust, as PEM."),
            click.option("--ui", metavar="URL", help="The user interface, if it has another address."),
        )
    ):
        command = option(command)
    return command


def connection_from(values: dict[str, Any]) -> Connection:
    """The connection that a command's values describe; they are taken out of `values`."""
    from enginepress.run.connection import connect

    given = {name: values.pop(name) for name in NAMES}
    return connect(given.pop("host"), **given)
