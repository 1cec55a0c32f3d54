"""The command, but one of its processes fails by itself in its third step: failing.py RANK ARGUMENTS."""

import os
import sys
from typing import Any

from simclr_cli.cli.app import main
from simclr_cli.errors import MachineError
from simclr_cli.verbs.step import Step

plain = Step.__call__


def failing(self: Step, batch: Any) -> Any:
    if batch.step == 2:
        raise MachineError("The GPU fell off the bus.", "Put it back.")
    return plain(self, batch)


if os.environ["RANK"] == sys.argv.pop(1):
    Step.__call__ = failing
main()
