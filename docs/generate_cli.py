"""Write docs/cli.md from the code: `python docs/generate_cli.py`; with `--check` only say whether it is up to date.

Options come from settings/, exit codes from errors.py, the keys of JSON from events.py, with the comments that stand
beside the fields there.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from simclr_cli import api as results
from simclr_cli.cli.app import COMMANDS
from simclr_cli.cli.options import DEBUG_HELP, JSON_HELP
from simclr_cli.core import errors, events
from simclr_cli.store.history import TIMES

TARGET = Path(__file__).with_name("cli.md")
RESULTS = {
    "pretrain": results.PretrainResult,
    "preview": results.PreviewResult,
    "embed": results.EmbedResult,
    "probe": results.ProbeResult,
    "finetune": results.FinetuneResult,
    "predict": results.PredictResult,
    "similar": results.SimilarResult,
    "outliers": results.OutliersResult,
    "clusters": results.ClustersResult,
    "duplicates": results.DuplicatesResult,
    "map": results.MapResult,
    "report": results.ReportResult,
    "check": results.CheckResult,
    "cache": results.CacheResult,
    "doctor": results.DoctorResult,
    "demo": results.DemoResult,
}
PARTS = (
    events.PlanMade,
    events.Choice,
    events.ValidationMetrics,
    results.Score,
    results.Accuracy,
    results.ClassScore,
    results.Confusion,
    results.LabelError,
    results.FewLabels,
    results.Prediction,
    results.ClassProbability,
    results.QueryResult,
    results.Neighbor,
    results.Outlier,
    results.Cluster,
    results.FolderShare,
    results.Member,
    results.ClusterCountScore,
    results.DuplicateGroup,
    results.DuplicateImage,
    results.FileProblem,
    results.FolderCache,
    results.Diagnosis,
)


def comments(cls: type[Any]) -> dict[str, str]:
    """The trailing comment of every field of a dataclass."""
    return dict(re.findall(r"^    (\w+): [^#\n]+#\s*(.+)$", inspect.getsource(cls), re.MULTILINE))


def keys_table(cls: type[Any]) -> list[str]:
    """A table of a dataclass's fields."""
    notes = comments(cls)
    lines = ["| key | type | |", "| --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        kind = str(field.type).replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{kind}` | {notes.get(field.name, '')} |")
    return [*lines, ""]


def options_table(cls: type[Any]) -> list[str]:
    """A table of a settings class's options."""
    hints = get_type_hints(cls)
    lines = ["| option | values | default | |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(cls):
        option = field.name.upper() if field.metadata["argument"] else "--" + field.name.replace("_", "-")
        if field.metadata["option"]:
            option += f", --{field.name}"
        if field.metadata["short"]:
            option += f", -{field.metadata['short']}"
        nothing = field.default is False or field.default == ()
        default = "auto" if field.default is None else "" if nothing else field.default
        taken = values(hints[field.name], field.metadata)
        lines.append(f"| `{option}` | {taken} | {default} | {field.metadata['help']} |")
    lines.append(f"| `--json` | | | {JSON_HELP} |")
    lines.append(f"| `--debug` | | | {DEBUG_HELP} |")
    return [*lines, ""]


def values(hint: Any, bounds: Any) -> str:
    """What an option takes, in words."""
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not type(None)]
    if get_origin(hint) is Literal or get_origin(kinds[0]) is Literal:
        return " \\| ".join(get_args(hint if get_origin(hint) is Literal else kinds[0]))
    word = {bool: "flag", int: "whole number", float: "number", str: "text", Path: "path"}.get(kinds[0], "paths")
    limits = [
        f"{symbol} {bounds[name]}"
        for name, symbol in (("at_least", ">="), ("above", ">"), ("at_most", "<="))
        if bounds.get(name) is not None
    ]
    return " ".join([word, ", ".join(limits)]).strip()


def page() -> str:
    """The whole of docs/cli.md."""
    lines = [
        "# The command line",
        "",
        "Generated from the code by `docs/generate_cli.py`; do not edit.",
        "",
        "Data goes to stdout, talk to stderr. `NO_COLOR` is respected; where stdout is no terminal, tables become",
        "lines with tabs; where stderr is none, progress becomes a line an epoch. `SIMCLR_CACHE` moves the cache of",
        "decoded images, which otherwise lies in the platform's cache folder.",
        "",
    ]
    for verb, settings_class in COMMANDS.items():
        lines += [f"## simclr {verb}", "", settings_class.about, "", "```", *settings_class.examples, "```", ""]
        lines += options_table(settings_class)
        lines += [f"`--json` prints one object (`{RESULTS[verb].__name__}`):", "", *keys_table(RESULTS[verb])]
    lines += ["## Parts of the JSON", ""]
    for part in PARTS:
        lines += [f"`{part.__name__}`: {inspect.getdoc(part)}", "", *keys_table(part)]
    rows = keys_table(events.EpochDone)
    timed = [row for row in rows if any(f"`{name}`" in row for name in TIMES)]
    lines += ["## metrics.jsonl", "", "One object an epoch:", "", *(row for row in rows if row not in timed)]
    lines += [
        "## speed.jsonl",
        "",
        "What the clock said of each, another time in every run:",
        "",
        *rows[:3],
        *timed,
        "",
    ]
    lines += ["## Exit codes", "", "| code | meaning |", "| --- | --- |", "| 0 | done |"]
    lines += [f"| {kind.exit_code} | {kind.meaning} |" for kind in errors.KINDS]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or compare it."""
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") == page():
            return 0
        print(f"{TARGET.name} is not what the code says. Run: python docs/generate_cli.py", file=sys.stderr)
        return 1
    TARGET.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
