"""`optimum-cli export fastv`: fastv-export as a command of optimum, which loads every file of this folder.

The folder is a part of optimum's namespace (PEP 420): an `__init__.py` here or above would hide optimum itself.
"""

from __future__ import annotations

import argparse

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

from fastv_export.cli import DESCRIPTION, add_arguments
from fastv_export.cli import run as export
from fastv_runtime.console import add_guard_arguments, export_extras, guarded


class FastvExportCommand(BaseOptimumCLICommand):
    """The same flags, errors and exit codes as fastv-export."""

    COMMAND = CommandInfo(name="fastv", help=DESCRIPTION)

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        parser.description = DESCRIPTION
        add_arguments(parser)
        add_guard_arguments(parser)

    def run(self) -> None:
        guarded(self.parser, export, self.args, export_extras)


REGISTER_COMMANDS = [(FastvExportCommand, ExportCommand)]
"""What optimum reads: each command with the one that it belongs under."""
