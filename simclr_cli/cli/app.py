"""The Typer app of all commands: results, errors and exit codes. Torch is imported only to run a command."""

from __future__ import annotations

import gc
import importlib
import inspect
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from simclr_cli import COMMAND_NAMES, __version__, api
from simclr_cli.cli.launch import launch_processes
from simclr_cli.cli.options import Command, CommandGroup, build_command
from simclr_cli.cli.signals import create_interrupted, quick_end, stop_on_signal
from simclr_cli.core.errors import InputError, Interrupted, SimclrError, explain_system_error
from simclr_cli.core.hardware import keep_freed_memory, limit_openmp_spinning
from simclr_cli.core.world import PeerLostError, World

if TYPE_CHECKING:  # --help and --version need no console, and are quicker without
    from simclr_cli.cli.console import Reporter
    from simclr_cli.cli.output import Output

QUICK_COMMANDS = ("cache", "check", "doctor")  # which import no torch
LOADING = "Loading torch and timm ..."
PEER_SECONDS = 1  # a process waits for others, which may have failed before it, to report their errors

app = typer.Typer(
    name="simclr",
    cls=CommandGroup,
    help="Learn an image encoder from any folder of images, without labels (SimCLR). Embed, evaluate and search.",
    epilog="Begin with: simclr demo",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

COMMANDS: dict[str, type[api.Settings]] = {name: getattr(api, f"{name.title()}Settings") for name in COMMAND_NAMES}


def _print_version(is_requested: bool) -> None:
    if is_requested:
        sys.stdout.write(f"simclr {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _add_command(name: str, settings_class: type[api.Settings]) -> None:
    def run(values: dict[str, Any], as_json: bool, debug: bool) -> None:
        raise typer.Exit(run_command(name, settings_class, values, as_json, debug))

    lines = "\n\n".join(f"[bold]{example}[/bold]" for example in settings_class.examples)
    add = app.command(name, cls=Command, help=settings_class.about, epilog=f"Examples:\n\n{lines}")
    add(build_command(settings_class, run))


for _name, _settings_class in COMMANDS.items():
    _add_command(_name, _settings_class)


def run_command(
    name: str, settings_class: type[Any], values: dict[str, Any], as_json: bool, debug: bool, launched: bool = False
) -> int:
    """Run one command, show its result or its error, and return its exit code.

    Args:
        values: the settings by name.
        launched: another process started this one as one of several, and reports which of them was lost.
    """
    from simclr_cli.cli.console import Reporter

    with Reporter() as reporter:
        try:
            _check_working_folder()
            settings = settings_class(**values)  # raises for wrong settings before torch is imported
            world = World.from_environment()
            if world.world_size == 1:  # of several processes, those that start later would find the files of the first
                _check_before_torch(name, settings, reporter)
            if world.world_size == 1 and getattr(settings, "devices", 1) > 1:
                arguments = (name, settings_class, values, as_json, debug)
                return launch_processes(settings.devices, settings.device, run_command, arguments, reporter.report)
            reporter.quiet = world.rank > 0  # only the main process prints
            return _run_and_show(name, settings, reporter, as_json=as_json, launched=launched)
        except BrokenPipeError:  # `simclr similar ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except PeerLostError as error:  # the process that failed reports first, and its exit code counts
            time.sleep(PEER_SECONDS)
            if not (reporter.quiet or launched):
                reporter.print_error(error)
            return (reporter.stop.request or error).exit_code
        except (Exception, KeyboardInterrupt) as error:
            return _show_error(error, values, reporter, debug=debug)


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except FileNotFoundError:  # torch cannot even be loaded there
        raise InputError("The working folder no longer exists.", "Change to another folder.") from None


def _check_before_torch(name: str, settings: Any, reporter: Reporter) -> None:
    """Raise the errors that need no torch, which takes seconds to import; report a cache in a temporary folder."""
    from simclr_cli.images.cache_location import cache_root, explain_temporary_cache

    if (reason := explain_temporary_cache()) is not None:
        os.environ.setdefault("HF_HOME", str(cache_root() / "huggingface"))
        reporter.print(reason, "yellow")
    if name not in QUICK_COMMANDS:
        from simclr_cli.diagnose.inputs import check_inputs

        check_inputs(settings)


def _run_and_show(name: str, settings: Any, reporter: Reporter, *, as_json: bool, launched: bool) -> int:
    """Run a command, show its result, and return its exit code."""
    from simclr_cli.cli import show_results
    from simclr_cli.cli.output import Output

    keep_freed_memory()
    output = Output()
    if getattr(settings, "thumbnails", False) and not as_json and not reporter.quiet:
        output.thumbnails = _can_show_thumbnails(output, reporter)
    is_loaded = name in QUICK_COMMANDS or f"simclr_cli.commands.{name}" in sys.modules
    first_line = "" if is_loaded else LOADING
    with stop_on_signal(reporter, launched=launched), reporter.keep_logging(first_line):
        with reporter.show_meanwhile(first_line):
            function = _import_function(name)
        stop = {"stop": reporter.stop} if "stop" in inspect.signature(function).parameters else {}
        result = function(settings, report=reporter.report, **stop)
    if not reporter.quiet:
        output.print_json(result) if as_json else getattr(show_results, f"show_{name}")(result, reporter, output)
        sys.stdout.flush()
        if getattr(settings, "open", False) and result.out is not None:
            reporter.open_page(result.out)
    return int(getattr(result, "exit_code", 0))


def _show_error(
    error: Exception | KeyboardInterrupt, values: dict[str, Any], reporter: Reporter, *, debug: bool
) -> int:
    """Show what ended a command, and return its exit code."""
    if reporter.quiet and isinstance(error, Interrupted):
        return error.exit_code
    if reporter.quiet and isinstance(error, SimclrError):  # by then the main one has printed the same error
        time.sleep(PEER_SECONDS)
    if debug and not isinstance(error, KeyboardInterrupt):
        traceback.print_exc()
    expected = _explain_error(error, values)
    reporter.print_error(expected)
    return expected.exit_code


def _explain_error(error: Exception | KeyboardInterrupt, values: dict[str, Any]) -> SimclrError:
    """Return the error to show: what happened, why, and what to do."""
    if isinstance(error, SimclrError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return create_interrupted(signal.SIGINT)
    what = f"Something went wrong inside simclr: {type(error).__name__}: {error}."
    bug = SimclrError(what, "Run it again with --debug, and report what it prints.")
    return explain_system_error(error, values) or bug


def _import_function(name: str) -> Callable[..., Any]:
    """Import the function of a command, without garbage collection, which would take a tenth of the time."""
    gc.disable()
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(f"simclr_cli.commands.{name}"), name)
    finally:
        gc.enable()
    return function


def _can_show_thumbnails(output: Output, reporter: Reporter) -> bool:
    """Return whether the terminal can show thumbnails; report why not before any long work."""
    from simclr_cli.cli.terminal_images import explain_unsupported

    if (reason := explain_unsupported(output.console)) is not None:
        reporter.print(f"No thumbnails: {reason}.", "yellow")
    return reason is None


def replace_closed_streams() -> None:
    """Open what was closed, as by >&-, onto nothing: for this process and those that it starts (--devices)."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest free one, which is the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def main() -> None:
    """Run the command `simclr`."""
    limit_openmp_spinning()
    replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for names that the stream's encoding lacks
    with quick_end():
        try:
            app(prog_name="simclr")
        except OSError as error:  # --help or --version on a full disk
            from simclr_cli.cli.console import Reporter

            raise SystemExit(_show_error(error, {}, Reporter(), debug=False)) from None
