"""How much the tests notice: small faults put into the package one at a time, and the tests run against each.

    uv run python benchmarks/mutants.py --count 200 --seed 0 --out mutants.json

A mutant changes one place: a comparison (< to <=), an arithmetic or boolean operator, a number, a condition, or a call
whose result nobody takes (left out). Not mutated are texts, annotations, what is raised, and constants at the top of a
module, whose values a test could only repeat. First the tests that mirror the module are run, up to the first that
fails; if none does, WIDER others that import the module, or mirror one that does. The mirroring tests must pass without
a mutant. A process that has loaded torch is forked for each mutant, in a copy of the checkout.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue

HERE = Path(__file__).resolve().parents[1]
PACKAGE = "simclr_cli"
ROOMS = ("engine", "store", "train/step.py", "train/loop.py", "train/plan.py", "train/resume.py", "train/monitor.py")
WIDER = 6  # files
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One fault: a span of a file, by byte offsets, and what stands there instead."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str


def mutants_of(file: Path) -> list[Mutant]:
    """List all mutants of a module."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before, after = source[start:end].decode(), changed if changed == "pass" else f"({changed})"
        if isinstance(node, ast.AugAssign):
            after = changed
        name = file.relative_to(HERE).as_posix()
        found.append(Mutant(name, node.lineno, start, end, before, after))
    return found


def _changes(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield each place that is mutated, and the code that replaces it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _of(node)


def _of(node: ast.AST) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.expr | ast.stmt) and (changed := _changed(node)) is not None:
        yield node, ast.unparse(ast.fix_missing_locations(changed))
    if isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
        yield node.test, f"not ({ast.unparse(node.test)})"
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _of(child)


def _changed(node: ast.AST) -> ast.AST | None:
    """Return the mutated node, or None for one that stays."""
    match node:
        case ast.Compare(left, [op, *ops], comparators):
            return ast.Compare(left, [COMPARISONS[type(op)](), *ops], comparators)
        case ast.BinOp(left, op, right) if type(op) in OPERATORS and not _is_text(node):
            return ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS and not _is_text(value):
            return ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.BoolOp(ast.And(), values):
            return ast.BoolOp(ast.Or(), values)
        case ast.BoolOp(ast.Or(), values):
            return ast.BoolOp(ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand) if not isinstance(operand, ast.Constant):
            return operand
        case ast.Constant(bool() as value):
            return ast.Constant(not value)
        case ast.Constant(int() as value):
            return ast.Constant(value + 1)
        case ast.Constant(float() as value):
            return ast.Constant(2 * value + (value == 0))
        case ast.Expr(ast.Call()):
            return ast.Pass()
    return None


def _is_text(node: ast.AST) -> bool:
    """Return whether an operand is a text, of which / or - would make no sense."""
    return any(isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
               for n in ast.walk(node))  # fmt: skip


def tests_of(file: str, root: Path) -> tuple[list[str], list[str]]:
    """List the test files beside a module's that mirror or import it; and others that import it or mirror a user."""
    mirrored = _mirrors(Path(file), root)
    name = _imported(Path(file))
    sources = [*sorted((root / "tests").rglob("*.py")), *sorted((root / PACKAGE).rglob("*.py"))]
    importing = [path.relative_to(root) for path in sources if name in path.read_text()]
    tests = [path.as_posix() for path in importing if path.name.startswith("test_") and "torture" not in path.parts]
    users = [path for path in importing if path.parts[0] == PACKAGE]
    wider = dict.fromkeys([*tests, *(test for user in users for test in _mirrors(user, root))])
    return mirrored, [test for test in wider if test not in mirrored][:WIDER]


def _mirrors(path: Path, root: Path) -> list[str]:
    beside, name = root / "tests" / path.parent.relative_to(PACKAGE), _imported(path)
    found = [beside / f"test_{path.stem}.py", *sorted(beside.glob("test_*.py"))]
    chosen = [test for test in found[:1] if test.is_file()] + [test for test in found[1:] if name in test.read_text()]
    return [test.relative_to(root).as_posix() for test in dict.fromkeys(chosen)]


def _imported(path: Path) -> str:
    return f"from {'.'.join(path.with_suffix('').parts)} import"


def verdict(mutant: Mutant, root: Path, seconds: float) -> str:
    """Return `caught`, `late` (by the wider tests only) or `survived`."""
    target = root / mutant.file
    whole = target.read_bytes()
    target.write_bytes(whole[: mutant.start] + mutant.after.encode() + whole[mutant.end :])
    try:
        mirrored, wider = tests_of(mutant.file, root)
        if mirrored and not passes(root, mirrored, seconds):
            return "caught"
        return "late" if wider and not passes(root, wider, seconds) else "survived"
    finally:
        target.write_bytes(whole)


def passes(root: Path, tests: Sequence[str], seconds: float) -> bool:
    """Run tests up to the first that fails, in a forked process; one that takes too long has failed."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        quiet = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(quiet, stream)
        os.chdir(root)
        sys.path.insert(0, str(root))
        os.environ["PYTHONPATH"] = str(root)
        import pytest

        code = 99
        with contextlib.suppress(BaseException):
            code = int(pytest.main([*OPTIONS, *tests]))
        os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


OPTIONS = (  # what pytest has loaded for the first fork is loaded for all
    "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning",
    "-o", "addopts=--strict-markers --import-mode=importlib -m 'not long'",
)  # fmt: skip


def main() -> None:
    """Print and write the share of mutants that the tests catch, and those that survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rooms", nargs="*", default=ROOMS, help="folders or files of the package")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=400, help="that a run of tests may take")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    chosen = parser.parse_args()
    rooms = [HERE / PACKAGE / room for room in chosen.rooms]
    files = sorted({file for room in rooms for file in (room.rglob("*.py") if room.is_dir() else [room])})
    every = [mutant for file in files for mutant in mutants_of(file)]
    drawn = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    import pytest  # noqa: F401  # loaded once, for all that are forked
    import timm  # noqa: F401
    import torch  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(chosen.processes):
            copy = Path(folder, str(number))
            for part in (PACKAGE, "tests", "docs", "benchmarks"):
                shutil.copytree(HERE / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            for file in ("pyproject.toml", "README.md", "CHANGELOG.md"):
                shutil.copy(HERE / file, copy / file)
            copies.put(copy)

        def judge(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                mirrored = tests_of(mutant.file, copy)[0]
                if mirrored and mutant.file not in sound and not passes(copy, mirrored, chosen.seconds):
                    raise SystemExit(f"The tests of {mutant.file} fail without a mutant.")
                sound.add(mutant.file)
                return verdict(mutant, copy, chosen.seconds)
            finally:
                copies.put(copy)

        verdicts, sound = [], set()
        with ThreadPoolExecutor(chosen.processes) as pool:
            for mutant, found in zip(drawn, pool.map(judge, drawn), strict=True):
                verdicts.append({**asdict(mutant), "verdict": found})
                chosen.out.write_text(json.dumps(verdicts, indent=1))
                if found == "survived":
                    print(f"{mutant.file}:{mutant.line}: {mutant.before!r} -> {mutant.after!r}", flush=True)
    caught = sum(one["verdict"] != "survived" for one in verdicts)
    late = sum(one["verdict"] == "late" for one in verdicts)
    print(f"{caught} of {len(verdicts)} mutants caught ({caught / len(verdicts):.1%}), {late} by wider tests only")
    print(f"drawn from {len(every):,} with seed {chosen.seed}")


if __name__ == "__main__":
    main()
