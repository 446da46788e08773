"""A group whose commands are imported on use, and errors in one sentence."""

from __future__ import annotations

import io
import sys
from importlib import import_module
from typing import Any

import click

from frictionstore.cli.signals import EndedBySignal, signals_interrupt
from frictionstore.errors import FrictionstoreError, OutputError
from frictionstore.text import did_you_mean, printable, show, silence

# Groups that live elsewhere and are imported when they are used: name -> (module:attribute, help).
LAZY: dict[str, tuple[str, str]] = {
    "report": (
        "frictionstore.analyses.report.command:report",
        "Write a store's analyses as one HTML file.",
    ),
    "view": ("frictionstore.cli.show:view", "Look at a store's maps in the browser."),
    "verify": ("frictionstore.cli.share:verify", "Compare a store with its manifest."),
    "pack": ("frictionstore.cli.share:pack", "Write a store into one .zip."),
    "unpack": ("frictionstore.cli.share:unpack", "Write the store in a .zip as a folder."),
    "push": ("frictionstore.cli.share:push", "Send a store to S3, the Hub or a folder."),
    "diff": ("frictionstore.cli.share:diff", "Compare two stores, value by value."),
    "merge": ("frictionstore.cli.share:merge", "Put stores of one kind into one."),
    "subset": ("frictionstore.cli.share:subset", "Copy some images of a store into a new one."),
    "export": ("frictionstore.cli.export:export", "Write a store as npz, CSV, Parquet or netCDF."),
    "pull": ("frictionstore.cli.share:pull", "Fetch a store from an address."),
    "analyze": (
        "frictionstore.analyses.cli:analyze",
        "Answer questions from a store: eight analyses, or all.",
    ),
}


GOING_ON = ("extract", "merge", "subset", "push", "pull")
"""Commands that go on where they were interrupted; others begin anew."""
BROKEN_PIPE = 141  # 128 and SIGPIPE's number; 1 would say that two stores differ
LONGEST = 10_000  # characters of an error's sentence


class _UserError(click.ClickException):
    """A `FrictionstoreError` on its way to the terminal: one sentence, exit status 2."""

    exit_code = 2


class _Interrupted(click.ClickException):
    """Ctrl-C, or a signal that ends as it does, in words."""

    exit_code = 130

    def __init__(self, error: KeyboardInterrupt, command: str | None) -> None:
        how = "interrupted"
        if isinstance(error, EndedBySignal):
            how, self.exit_code = f"ended by {error.signal.name}", 128 + error.signal  # type: ignore[misc]
        going_on = "what is complete is kept, run it again to go on"
        super().__init__(f"{how}: {going_on if command in GOING_ON else 'run it again'}")


class Suggesting(click.Group):
    """A group that names the command that was meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not (ctx.resilient_parsing or name.startswith("-")) and not self.get_command(ctx, name):
            meant = did_you_mean(name, self.list_commands(ctx))
            ctx.fail(f"No such command {printable(name)!r}{meant}")
        return super().resolve_command(ctx, args)


class ExplainingGroup(Suggesting):
    """A group whose commands' errors end in one sentence and an exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        """As click's, but what it has to say goes through `show` as all else does."""
        run: Any = super().main
        if not options.pop("standalone_mode", True):
            return run(*args, standalone_mode=False, **options)
        try:
            status = run(*args, standalone_mode=False, **options)
        except click.ClickException as error:
            said = io.StringIO()
            error.show(said)
            show(said.getvalue().rstrip("\n").expandtabs(4), err=True)
            status = error.exit_code
        except click.Abort:
            show("Aborted!", err=True)
            status = _Interrupted.exit_code
        except OSError as error:  # click prints help and version itself
            silence(sys.stdout)
            show(f"Error: {OutputError(error)}", err=True)
            status = _UserError.exit_code
        sys.exit(status if isinstance(status, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OutputError as error:
            if error.pipe:  # who reads has seen enough: end quietly, as other programs do
                ctx.exit(BROKEN_PIPE)
            raise _UserError(str(error)) from error
        except FrictionstoreError as error:
            raise _UserError(printable(error.on_command_line(), LONGEST)) from error
        except RecursionError as error:
            raise _UserError("a file is nested too deeply to be read") from error
        except MemoryError as error:
            raise _UserError(
                "there is not enough memory for this: ask for less at a time"
            ) from error
        except OSError as error:
            what = printable(error.filename) if error.filename is not None else "the system"
            raise _UserError(f"{what}: {printable(error.strerror or error)}") from error
        except KeyboardInterrupt as error:
            raise _Interrupted(error, ctx.invoked_subcommand) from error


class Group(ExplainingGroup):
    """The commands of `frictionstore`; those named in `LAZY` are imported on use."""

    def invoke(self, ctx: click.Context) -> Any:
        with signals_interrupt():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in LAZY:
            module, attribute = LAZY[cmd_name][0].split(":")
            command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in LAZY:
                rows.append((name, LAZY[name][1]))
            else:
                command = super().get_command(ctx, name)
                assert command is not None
                rows.append((name, command.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)
