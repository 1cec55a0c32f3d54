"""Generator of docs/cli.md: `python docs/generate_cli.py`; with `--check` it only compares the page with the code.

Options come from simclr_cli/api, exit codes from core/errors.py, JSON keys from simclr_cli/api and core/events.py, with
the trailing comments of their fields.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from simclr_cli import api
from simclr_cli.api.fields import GENERAL
from simclr_cli.cli.app import COMMANDS
from simclr_cli.cli.options import DEBUG_HELP, JSON_HELP, sort_fields
from simclr_cli.core import errors, events
from simclr_cli.store.history import TIMING_KEYS

TARGET = Path(__file__).with_name("cli.md")
RESULTS = {name: getattr(api, f"{name.title()}Result") for name in COMMANDS}
PARTS = (
    events.PlanMade,
    events.Choice,
    events.ValidationMetrics,
    api.Score,
    api.Accuracy,
    api.ClassScore,
    api.Confusion,
    api.LabelError,
    api.FewLabels,
    api.Prediction,
    api.ClassProbability,
    api.QueryResult,
    api.Neighbor,
    api.Outlier,
    api.Cluster,
    api.FolderShare,
    api.Member,
    api.ClusterCountScore,
    api.DuplicateGroup,
    api.DuplicateImage,
    api.FileProblem,
    api.FolderCache,
    api.Diagnosis,
)


def read_comments(cls: type[Any]) -> dict[str, str]:
    """Return the trailing comment of every field of a dataclass."""
    return dict(re.findall(r"^    (\w+): [^#\n]+#\s*(.+)$", inspect.getsource(cls), re.MULTILINE))


def list_keys(cls: type[Any]) -> list[str]:
    """Return a table of a dataclass's fields."""
    comments = read_comments(cls)
    return [
        line for field in dataclasses.fields(cls)
        for line in wrap_item(f"`{field.name}` (`{field.type}`)", comments.get(field.name, ""))
    ] + [""]  # fmt: skip


def wrap_item(name: str, text: str) -> list[str]:
    """Return an item of a list, in lines of at most 120 columns."""
    item = f"- {name}: {text}" if text else f"- {name}"
    return textwrap.wrap(item, 120, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def list_options(cls: type[Any]) -> list[str]:
    """Return a list of a settings class's options, in the panels of the help."""
    hints = get_type_hints(cls)
    panels = itertools.groupby(sort_fields(cls), key=lambda field: field.metadata["panel"])
    items = {panel: [line for field in fields for line in _list_option(field, hints[field.name])]
             for panel, fields in panels}  # fmt: skip
    last = items.setdefault(GENERAL if any(items) else None, [])
    last += [*wrap_item("`--json`", JSON_HELP), *wrap_item("`--debug`", DEBUG_HELP)]
    return [line for panel in items for line in [*([f"{panel}:", ""] if panel else []), *items[panel], ""]]


def _list_option(field: dataclasses.Field[Any], hint: Any) -> list[str]:
    option = field.name.upper() if field.metadata["argument"] else "--" + field.name.replace("_", "-")
    if field.metadata["option"]:
        option += f", --{field.name}"
    if field.metadata["short"]:
        option += f", -{field.metadata['short']}"
    is_empty = field.default is False or field.default == ()
    default = "auto" if field.default is None else "" if is_empty else f"default {field.default}"
    values = "; ".join(filter(None, (describe_values(hint, field.metadata), default)))
    return wrap_item(f"`{option}` ({values})", field.metadata["help"])


def describe_values(hint: Any, bounds: Any) -> str:
    """Describe in words the values of an option."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    if get_origin(hint) is Literal or get_origin(kinds[0]) is Literal:
        return " | ".join(get_args(hint if get_origin(hint) is Literal else kinds[0]))
    word = {bool: "flag", int: "whole number", float: "number", str: "text", Path: "path"}.get(kinds[0], "paths")
    limits = [
        f"{symbol} {bounds[name]}"
        for name, symbol in (("at_least", ">="), ("above", ">"), ("at_most", "<="))
        if bounds.get(name) is not None
    ]
    return " ".join([word, ", ".join(limits)]).strip()


def build_page() -> str:
    """Return the whole of docs/cli.md."""
    lines = [
        "# The command line",
        "",
        "Generated from the code by `docs/generate_cli.py`; do not edit.",
        "",
        "Results go to stdout, messages to stderr. `NO_COLOR` is respected. Without a terminal, tables become lines",
        "with tabs, and progress becomes a line per epoch. `SIMCLR_CACHE` sets the folder of the cache of decoded",
        "images, by default the platform's cache folder. `simclr --install-completion` installs shell completion.",
        "",
    ]
    for name, settings_class in COMMANDS.items():
        lines += [f"## simclr {name}", "", settings_class.about, "", "```", *settings_class.examples, "```", ""]
        lines += list_options(settings_class)
        result = RESULTS[name]
        lines += [f"`--json` prints one object (`{result.__name__}`):", "", *list_keys(result)]
    lines += ["## Parts of the JSON", ""]
    for part in PARTS:
        lines += [f"`{part.__name__}`: {inspect.getdoc(part)}", "", *list_keys(part)]
    rows = list_keys(events.EpochDone)
    timed = [row for row in rows if any(f"`{name}`" in row for name in TIMING_KEYS)]
    lines += ["## metrics.jsonl", "", "One object per epoch:", "", *(row for row in rows if row not in timed)]
    lines += ["## speed.jsonl", "", "The times of each epoch, which differ between runs:", "", rows[0], *timed, ""]
    lines += ["## Exit codes", "", "| code | meaning |", "| --- | --- |", "| 0 | success |"]
    lines += [f"| {kind.exit_code} | {kind.meaning} |" for kind in errors.ERROR_TYPES]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it with the code."""
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") == build_page():
            return 0
        print(f"{TARGET.name} differs from the code. Run: python docs/generate_cli.py", file=sys.stderr)
        return 1
    TARGET.write_text(build_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
