"""The Typer app, and main(): signals, one error handler, exit codes. Torch is imported only once a verb must run."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from simclr_cli import COMMAND_NAMES, __version__
from simclr_cli import api as settings
from simclr_cli.cli.launch import launch
from simclr_cli.cli.options import Commands, as_command
from simclr_cli.cli.signals import quick_end, stoppable
from simclr_cli.core.errors import Interrupted, SimclrError, trouble
from simclr_cli.core.hardware import keep_freed_memory, share_cores
from simclr_cli.core.world import PeerLost, Place

if TYPE_CHECKING:  # --help and --version need no console, and are quicker without
    from simclr_cli.cli.console import Data, Face

PEER_SECONDS = 1  # that a process lets others speak, which may have failed before it

app = typer.Typer(
    name="simclr",
    cls=Commands,
    help="Learn an image encoder from any folder of images, without labels, by SimCLR; and put it to use.",
    epilog="Begin with: simclr demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

COMMANDS: dict[str, type[settings.Settings]] = {
    verb: getattr(settings, f"{verb.title()}Settings") for verb in COMMAND_NAMES
}


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"simclr {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _add(verb: str, settings_class: type[settings.Settings]) -> None:
    def run(values: dict[str, Any], as_json: bool, debug: bool) -> None:
        raise typer.Exit(perform(verb, settings_class, values, as_json, debug))

    lines = "\n\n".join(f"[bold]{example}[/bold]" for example in settings_class.examples)
    app.command(verb, help=settings_class.about, epilog=f"Examples:\n\n{lines}")(as_command(settings_class, run))


for _verb, _settings_class in COMMANDS.items():
    _add(_verb, _settings_class)


def perform(
    verb: str, settings_class: type[Any], values: dict[str, Any], as_json: bool, debug: bool, led: bool = False
) -> int:
    """Run one verb and show its result.

    Args:
        led: whether another process has started this one as one of several, and says which of them was lost.

    Returns:
        The exit code; the one place where errors become one.
    """
    from simclr_cli.cli import results
    from simclr_cli.cli.console import Data, Face

    data = Data()
    with Face() as face:
        try:
            chosen = settings_class(**values)  # wrong settings end here, before torch is imported
            place = Place.found()
            if place.count == 1 and getattr(chosen, "devices", 1) > 1:
                arguments = (verb, settings_class, values, as_json, debug)
                return launch(chosen.devices, chosen.device, perform, arguments, face.report)
            face.quiet = place.rank > 0  # the first process talks
            keep_freed_memory()
            data.thumbnails = not as_json and not face.quiet and _thumbnails(chosen, data, face)
            with stoppable(face, led=led):
                result = _function(verb)(chosen, report=face.report)
            if not face.quiet:
                data.json(result) if as_json else getattr(results, f"show_{verb}")(result, face, data)
                sys.stdout.flush()
                if getattr(chosen, "open", False) and result.out is not None:
                    face.open_page(result.out)
        except PeerLost as error:  # let the one that failed be heard, and its exit code count
            time.sleep(PEER_SECONDS)
            if not face.quiet and not led:
                face.error(error)
            return face.stop.exit_code if face.stop else error.exit_code
        except SimclrError as error:
            if face.quiet and isinstance(error, Interrupted):
                return error.exit_code
            if face.quiet:  # if all have met the same error, the first one has said so by then
                time.sleep(PEER_SECONDS)
            if debug:
                traceback.print_exc()
            face.error(error)
            return error.exit_code
        except KeyboardInterrupt:
            face.error(Interrupted("Stopped by Ctrl-C.", "Nothing was lost; type the command again."))
            return Interrupted.exit_code
        except BrokenPipeError:  # `simclr similar ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as error:
            if debug:
                traceback.print_exc()
            if (skipped := trouble(error, values)) is not None:
                face.error(skipped)
                return skipped.exit_code
            what = f"Something went wrong inside simclr: {type(error).__name__}: {error}."
            face.error(SimclrError(what, "Run it again with --debug, and report what it prints."))
            return SimclrError.exit_code
    return int(getattr(result, "exit_code", 0))


def _function(verb: str) -> Callable[..., Any]:
    """Import what does the work; no garbage is looked for meanwhile, which would take a tenth of the time."""
    gc.disable()
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(f"simclr_cli.commands.{verb}"), verb)
    finally:
        gc.enable()
    return function


def _thumbnails(chosen: Any, data: Data, face: Face) -> bool:
    """Whether tables show images; if they were asked for and cannot be shown, why, before long work."""
    if not getattr(chosen, "thumbnails", False):
        return False
    from simclr_cli.cli.terminal_images import why_not

    if (reason := why_not(data.out)) is not None:
        face.say(f"No thumbnails: {reason}.", "yellow")
    return reason is None


def main() -> None:
    """The command `simclr`."""
    share_cores()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the stream cannot encode is no reason to fail
    with quick_end():
        app(prog_name="simclr")
