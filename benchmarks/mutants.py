"""Mutation tests: one small fault in the package at a time, and the tests that should catch it.

    uv run python benchmarks/mutants.py --count 200 --seed 0 --out mutants.json

A mutant changes one place: a comparison (< to <=), an arithmetic or boolean operator, a number, a condition, or a call
whose result is unused (removed). Texts, annotations, raised errors, and constants at the top of a module stay, since a
test could only repeat them. The tests that mirror the module run first, up to the first failure. If none fails, up to
MAX_WIDER_FILES others run that import the module or mirror one that does. The mirroring tests must pass without a
mutant. A process that has loaded torch is forked for each mutant, in a copy of the checkout.
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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "simclr_cli"
MUTATED_PATHS = (
    "engine", "store", "train/step.py", "train/loop.py", "train/retry.py", "train/plan.py", "train/resume.py",
    "train/monitor.py",
)  # fmt: skip
MAX_WIDER_FILES = 6
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
    """One fault: a span of a file, by byte offsets, and its replacement."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str


def find_mutants(file: Path) -> list[Mutant]:
    """List all mutants of a module."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _find_changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before, after = source[start:end].decode(), changed if changed == "pass" else f"({changed})"
        if isinstance(node, ast.AugAssign):
            after = changed
        name = file.relative_to(ROOT).as_posix()
        found.append(Mutant(name, node.lineno, start, end, before, after))
    return found


def _find_changes(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Yield each place that is mutated, and the code that replaces it."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _walk(node)


def _walk(node: ast.AST) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.expr | ast.stmt) and (changed := _mutate(node)) is not None:
        yield node, ast.unparse(ast.fix_missing_locations(changed))
    if isinstance(node, ast.If | ast.IfExp | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp):
        yield node.test, f"not ({ast.unparse(node.test)})"
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _mutate(node: ast.AST) -> ast.AST | None:
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
    """Return whether an operand is text, for which / or - makes no sense."""
    return any(isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
               for n in ast.walk(node))  # fmt: skip


def find_tests(file: str, root: Path) -> tuple[list[str], list[str]]:
    """List the test files that mirror a module, and others that import it or mirror a module that does."""
    mirrored = _find_mirrors(Path(file), root)
    name = _import_of(Path(file))
    sources = [*sorted((root / "tests").rglob("*.py")), *sorted((root / PACKAGE).rglob("*.py"))]
    importing = [path.relative_to(root) for path in sources if name in path.read_text()]
    tests = [path.as_posix() for path in importing if path.name.startswith("test_") and "torture" not in path.parts]
    users = [path for path in importing if path.parts[0] == PACKAGE]
    wider = dict.fromkeys([*tests, *(test for user in users for test in _find_mirrors(user, root))])
    return mirrored, [test for test in wider if test not in mirrored][:MAX_WIDER_FILES]


def _find_mirrors(path: Path, root: Path) -> list[str]:
    mirror_folder, name = root / "tests" / path.parent.relative_to(PACKAGE), _import_of(path)
    found = [mirror_folder / f"test_{path.stem}.py", *sorted(mirror_folder.glob("test_*.py"))]
    tests = [test for test in found[:1] if test.is_file()] + [test for test in found[1:] if name in test.read_text()]
    return [test.relative_to(root).as_posix() for test in dict.fromkeys(tests)]


def _import_of(path: Path) -> str:
    return f"from {'.'.join(path.with_suffix('').parts)} import"


def judge_mutant(mutant: Mutant, root: Path, seconds: float) -> str:
    """Return `caught`, `late` (only by the wider tests) or `survived`."""
    target = root / mutant.file
    source = target.read_bytes()
    target.write_bytes(source[: mutant.start] + mutant.after.encode() + source[mutant.end :])
    try:
        mirrored, wider = find_tests(mutant.file, root)
        if mirrored and not run_tests(root, mirrored, seconds):
            return "caught"
        return "late" if wider and not run_tests(root, wider, seconds) else "survived"
    finally:
        target.write_bytes(source)


def run_tests(root: Path, tests: Sequence[str], seconds: float) -> bool:
    """Run tests up to the first failure in a forked process; return False also if they take too long."""
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
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


OPTIONS = (  # of pytest in every fork
    "-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning",
    "-o", "addopts=--strict-markers --import-mode=importlib -m 'not long'",
)  # fmt: skip


def main() -> None:
    """Print and write the share of mutants that the tests catch, and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", default=MUTATED_PATHS, help="folders or files of the package")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=400, help="limit of one run of tests")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    args = parser.parse_args()
    folders = [ROOT / PACKAGE / folder for folder in args.paths]
    files = sorted({file for folder in folders for file in (folder.rglob("*.py") if folder.is_dir() else [folder])})
    mutants = [mutant for file in files for mutant in find_mutants(file)]
    sample = random.Random(args.seed).sample(mutants, min(args.count, len(mutants)))
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    import pytest  # noqa: F401  # loaded once, before the forks
    import timm  # noqa: F401
    import torch  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        copies: Queue[Path] = Queue()
        for number in range(args.processes):
            copy = Path(folder, str(number))
            for part in (PACKAGE, "tests", "docs", "benchmarks"):
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            for file in ("pyproject.toml", "README.md", "CHANGELOG.md"):
                shutil.copy(ROOT / file, copy / file)
            copies.put(copy)

        def judge(mutant: Mutant) -> str:
            copy = copies.get()
            try:
                mirrored = find_tests(mutant.file, copy)[0]
                if mirrored and mutant.file not in sound_files and not run_tests(copy, mirrored, args.seconds):
                    raise SystemExit(f"The tests of {mutant.file} fail without a mutant.")
                sound_files.add(mutant.file)
                return judge_mutant(mutant, copy, args.seconds)
            finally:
                copies.put(copy)

        verdicts, sound_files = [], set()
        with ThreadPoolExecutor(args.processes) as pool:
            for mutant, verdict in zip(sample, pool.map(judge, sample), strict=True):
                verdicts.append({**asdict(mutant), "verdict": verdict})
                args.out.write_text(json.dumps(verdicts, indent=1))
                if verdict == "survived":
                    print(f"{mutant.file}:{mutant.line}: {mutant.before!r} -> {mutant.after!r}", flush=True)
    caught = sum(result["verdict"] != "survived" for result in verdicts)
    late = sum(result["verdict"] == "late" for result in verdicts)
    print(f"{caught} of {len(verdicts)} mutants caught ({caught / len(verdicts):.1%}), {late} by wider tests only")
    print(f"drawn from {len(mutants):,} with seed {args.seed}")


if __name__ == "__main__":
    main()
