"""The `enginepress` command: finds the command's module when it is asked for, and turns errors into plain words."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys

import click

from enginepress import __version__
from enginepress.cli.typed import complete_fix
from enginepress.errors import EnginepressError

# In the order in which people meet them.
COMMANDS = {
    "run": "enginepress.cli.run",
    "plan": "enginepress.cli.plan",
    "releases": "enginepress.cli.releases",
    "lock": "enginepress.cli.lock",
    "outdated": "enginepress.cli.outdated",
    "watch": "enginepress.cli.watch",
    "promote": "enginepress.cli.promote",
    "rollback": "enginepress.cli.rollback",
    "sign": "enginepress.cli.sign",
    "prune": "enginepress.cli.prune",
    "serve": "enginepress.cli.serve",
    "pull": "enginepress.cli.pull",
    "rollout": "enginepress.cli.rollout",
    "gate": "enginepress.cli.gate",
    "reference": "enginepress.cli.reference",
    "validate": "enginepress.cli.validate",
    "verify": "enginepress.cli.verify",
    "backup": "enginepress.cli.backup",
    "restore": "enginepress.cli.restore",
    "schema": "enginepress.cli.schema",
    "doctor": "enginepress.cli.doctor",
    "submit": "enginepress.cli.submit",
    "status": "enginepress.cli.status",
    "logs": "enginepress.cli.logs",
    "cancel": "enginepress.cli.cancel",
    "schedule": "enginepress.cli.schedule",
    "compile": "enginepress.cli.compile",
    "completion": "enginepress.cli.completion",
}


class LazyGroup(click.Group):
    """Imports a command's module only when that command, or the list of all, is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EnginepressError as error:
            complete_fix(error)
            raise

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            if close := difflib.get_close_matches(args[0], COMMANDS, n=1):
                raise click.UsageError(f"{error.message} Did you mean '{close[0]}'?", ctx) from None
            raise

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = getattr(importlib.import_module(module), cmd_name)
        return command


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """From an LLM checkpoint to a gated, published, registered Triton release.

    Start with `enginepress run RECIPE`; `enginepress COMMAND --help` explains each command.
    """


def run_app(command: click.Command) -> None:
    """Runs a command and ends the process: 0 done, 1 failed work, 2 wrong recipe, source or usage, 130 interrupted."""
    try:
        atexit.register(gc.freeze)  # what kfp loaded would be searched for garbage at the end
        # Without standalone mode click returns the status of a `ctx.exit(n)` instead of ending with it.
        status = command.main(prog_name="enginepress", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except EnginepressError as error:
        _print_error(error)
        sys.exit(error.exit_status)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted: finished steps are kept; run it again to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (ImportError, OSError) as error:
        from enginepress.unexplained import explain

        explained = explain(error)
        if explained is None:
            raise
        _print_error(explained)
        sys.exit(explained.exit_status)


def _print_error(error: EnginepressError) -> None:
    click.echo(click.style("error: ", fg="red", bold=True) + str(error), err=True)
    if error.fix:
        click.echo(click.style("next:  ", bold=True) + error.fix, err=True)
