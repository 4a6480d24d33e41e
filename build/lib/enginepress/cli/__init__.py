"""The command line: one file a command. Commands render; they decide nothing.

Modules here import only click and the standard library at their top, so that `enginepress --help` is quick.
"""


def main() -> None:
    """Entry point of the console script."""
    from enginepress.cli.app import app, run_app

    run_app(app)
