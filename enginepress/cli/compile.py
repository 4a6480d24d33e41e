"""`enginepress compile`: the pipelines as YAML, for a cluster."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click


def _mount(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Any, ...]:
    from enginepress.compile_options import Mount

    found = []
    for value in values:
        pvc, colon, path = value.partition(":")
        if not colon:
            raise click.BadParameter(f"'{value}': write PVC:PATH")
        found.append(Mount(pvc, path))
    return tuple(found)


def compile_options(command: Any) -> Any:
    """Options of every command that compiles; each has the name of a field of `CompileOptions`."""
    for option in reversed(
        (
            click.option("--image", default="", metavar="REF", help="Image of the steps, best with @sha256:…"),
            click.option(
                "--workspace-path", "workspace", metavar="PATH", help="Where the workspace is mounted. Default: /workspace."
            ),
            click.option("--store-path", "store", metavar="PATH", help="Mount path of the store. Default: /mnt/models."),
            click.option(
                "--mount", "mounts", multiple=True, callback=_mount, metavar="PVC:PATH", help="Another volume. Repeatable."
            ),
            click.option("--scratch", metavar="SIZE", help="Scratch of convert, build and verify. Default: 200Gi."),
            click.option("--scratch-class", metavar="NAME", help="Scratch on a volume of this class, not on the node's disk."),
            click.option("--shared-memory", metavar="SIZE", help="/dev/shm of these steps. Default: 16Gi."),
            click.option("--parallelism", type=int, metavar="N", help="Recipes that are rebuilt at a time. Default: 2."),
            click.option("--retries", type=int, metavar="N", help="Of steps that were killed or cut off. Default: 2."),
            click.option("--timeout-h", type=float, metavar="HOURS", help="Of download, convert, build, verify. Default: 12."),
            click.option(
                "--security-context/--no-security-context",
                default=True,
                help="Ask for steps that are not root. Kubeflow 2.15 refuses a pipeline that asks.",
            ),
            click.option("--secret", "secrets", multiple=True, metavar="NAME", help="Variable that recipes name as ${NAME}."),
            click.option("--recipes", type=click.Choice(["configmap", "pvc"]), help="Where recipes to watch lie."),
            click.option("--image-prefix", metavar="MIRROR", help="Registry mirror for every image."),
            click.option("--pull-secret", "pull_secrets", multiple=True, metavar="NAME", help="Secret to pull images with."),
            click.option("--http-proxy", metavar="URL", help="For every step."),
            click.option("--https-proxy", metavar="URL", help="For every step."),
            click.option("--no-proxy", metavar="LIST", help="For every step."),
            click.option("--ca-config-map", metavar="NAME", help="ConfigMap with ca-bundle.crt, trusted by every step."),
            click.option("--queue", metavar="NAME", help="Kueue's local queue."),
            click.option("--priority", metavar="NAME", help="Kueue's workload priority class."),
        )
    ):
        command = option(command)
    return command


def options_from(values: dict[str, Any]) -> Any:
    """The `CompileOptions` of a command's values; what was not given keeps its default."""
    from enginepress.compile_options import CompileOptions

    known = {f.name for f in fields(CompileOptions)}
    return CompileOptions(**{k: v for k, v in values.items() if k in known and v not in (None, "", ())})


@click.command("compile")
@compile_options
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, file_okay=False), default=Path("compiled"), show_default=True, metavar="DIR"
)
def compile(output: Path, **values: Any) -> None:
    """Write the pipelines as YAML for Kubeflow Pipelines.

    What Kubeflow fixes at compile time is an option here; recipe, image, volumes, GPUs, nodes and secrets are parameters of
    each run.
    """
    from enginepress.run.compiled import write_compiled

    options = options_from(values)
    for path in write_compiled(output, options):
        click.echo(str(path))
    if not options.pinned:
        click.echo(f"note: {options.image} names no digest, so steps of one run may differ; give --image NAME@sha256:…", err=True)
