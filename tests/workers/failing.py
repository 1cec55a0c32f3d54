"""The command, of which the process RANK fails in its third step or at its fifth image: RANK ARGUMENTS."""

import itertools
import os
import sys
from typing import Any

from simclr_cli.cli.app import main
from simclr_cli.core.errors import MachineError
from simclr_cli.encode import embed
from simclr_cli.train.step import Step

step, isolate, images = Step.__call__, embed.isolate, itertools.count(1)


def failing_step(self: Step, batch: Any) -> Any:
    if batch.step == 2:
        raise MachineError("The GPU fell off the bus.", "Put it back.")
    return step(self, batch)


def failing_isolate(*arguments: Any) -> Any:
    crop = isolate(*arguments)

    def failing_crop(*image: Any) -> Any:
        if next(images) == 5:
            raise MachineError("The GPU fell off the bus.", "Put it back.")
        return crop(*image)

    return failing_crop


if os.environ["RANK"] == sys.argv.pop(1):
    Step.__call__, embed.isolate = failing_step, failing_isolate
main()
