"""``tandem``: the group of all subcommands, each of which is imported only when it is used."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from appliance import __version__
from appliance.cli.lazy import SECTIONS


class Commands(click.Group):
    """Subcommands by the table of :mod:`appliance.cli.lazy`, in its sections and order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [name for section in SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command ``cmd_name``."""
        for section in SECTIONS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name].where.partition(":")
                command = getattr(importlib.import_module(module), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table itself, without importing anything."""
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a hint when the name is wrong."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`tandem COMMAND --help` shows what a command can do, with examples.",
)
@click.version_option(__version__, prog_name="tandem")
def tandem() -> None:
    """A flow collector that accounts for every datagram, and what it collected."""


def main(args: list[str] | None = None) -> Any:
    """Run the command line; exits 0 after success, 1 after a failure, 2 after wrong usage."""
    try:
        return tandem.main(args, prog_name="tandem", standalone_mode=True)
    except BrokenPipeError:
        # the reader of a pipe has seen enough; without this, the interpreter complains at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()
