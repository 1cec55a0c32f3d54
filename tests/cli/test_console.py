"""Console output: escaped text, tables or tabs, with and without colors."""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simclr_cli.api import (
    Accuracy,
    CacheResult,
    DemoResult,
    DuplicatesResult,
    EmbedResult,
    FewLabels,
    FolderCache,
    Neighbor,
    PretrainResult,
    ProbeResult,
    QueryResult,
    Score,
    SimilarResult,
)
from simclr_cli.cli import console
from simclr_cli.cli.console import Reporter
from simclr_cli.cli.output import Output
from simclr_cli.cli.show_results import (
    show_cache,
    show_demo,
    show_duplicates,
    show_embed,
    show_pretrain,
    show_probe,
    show_similar,
)
from simclr_cli.core.errors import InputError, Interrupted
from simclr_cli.core.events import CensusTaken, Choice, EpochDone, Note, PlanMade, Progress, StepDone
from simclr_cli.core.text import escape_unprintable, format_duration

NASTY = "a\nb\x1b[31mc\x07\r\t[bold]d[/bold]\u202egnp.\udcff\u2028\x9b1m"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def log() -> tuple[Reporter, io.StringIO]:
    stream = io.StringIO()
    return Reporter(stream), stream


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[Reporter, Terminal]:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    return Reporter(stream), stream


@pytest.fixture
def stdout(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Return a function that returns the output since its last call."""
    return lambda: capsys.readouterr().out


def census(**values: Any) -> dict[str, Any]:
    return {
        "folder": "pics", "images": 1200, "formats": {"JPEG": 1190, "PNG": 10}, "classes": [], "skipped": 0,
        "short_side": {"least": 20, "median": 30, "most": 40}, "skipped_because": {}, "unlabeled_because": "",
        "other_files": 0, "other_kinds": {}, **values,
    }  # fmt: skip


# Text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain name.png", "plain name.png"),
        ("Grün 写真 é.png", "Grün 写真 é.png"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x00\x07\x7f\x9b", r"\x00\x07\x7f\x9b"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("gnp.\u202egpj", r"gnp.\u202egpj"),
        ("\u2066\u2069\u200b\ufeff", r"\u2066\u2069\u200b\ufeff"),
        ("line\u2028para\u2029", r"line\u2028para\u2029"),
        ("\udcff\udcfe.png", r"\udcff\udcfe.png"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_unprintable_characters_are_escaped(raw: str, shown: str) -> None:
    assert escape_unprintable(raw) == shown
    assert escape_unprintable(raw).isprintable()
    escape_unprintable(raw).encode()  # no surrogate is left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"),
     (3599.7, "1 h 0 min"), (7530, "2 h 5 min"), (90_000, "25 h 0 min")],
)  # fmt: skip
def test_duration(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


# Events


def test_no_event_lets_a_raw_character_through(log: tuple[Reporter, io.StringIO]) -> None:
    reporter, stream = log
    reporter.report(Note(NASTY, warning=True))
    reporter.report(CensusTaken(census(folder=NASTY, classes=[NASTY, "b"], skipped=2, skipped_because={NASTY: 2})))
    reporter.report(PlanMade(NASTY, (Choice("backbone", NASTY, NASTY),), 3, 4.0))
    reporter.print_error(InputError(f"There is no {NASTY}.", f"Look at {NASTY}."))
    text = stream.getvalue()
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[bold]d[/bold]" in text and r"\x1b[31mc" in text


def test_no_event_lets_a_raw_character_through_to_a_terminal(terminal: tuple[Reporter, Terminal]) -> None:
    reporter, stream = terminal
    reporter.print(NASTY)
    reporter.print_error(InputError(NASTY, NASTY))
    reporter.report(PlanMade(NASTY, (Choice("backbone", NASTY, NASTY),), 3, 4.0))
    for raw in ("\x1b[31mc", "\x07", "\r", "\u202e", "\udcff", "\x9b"):
        assert raw not in stream.getvalue()


def test_census_in_words(log: tuple[Reporter, io.StringIO]) -> None:
    reporter, stream = log
    classes = [f"c{i}" for i in range(15)]
    reasons = {"damaged": 3, **{f"reason {i}": 1 for i in range(9)}}
    kinds = {".xml": 1000, ".txt": 200, "@eaDir/": 20, ".pdf": 8, ".json": 4}
    reporter.report(
        CensusTaken(
            census(
                classes=classes,
                unlabeled_because="1 image alone in a folder (bird/1.png)",
                skipped=12,
                skipped_because=reasons,
                other_files=1234,
                other_kinds=kinds,
            )
        )
    )
    assert stream.getvalue().splitlines() == [
        "pics: 1,200 images (1,190 JPEG, 10 PNG), short side 20 to 40 px",
        "  folders look like 15 classes (used to evaluate, not to train): " + ", ".join(classes[:12]) + ", ...",
        "  without a class: 1 image alone in a folder (bird/1.png)",
        "  12 files skipped:",
        "    3 x damaged",
        *(f"    1 x reason {i}" for i in range(7)),
        "    2 for other reasons",
        "  1,234 other files (1,000 .xml, 200 .txt, 20 @eaDir/, 8 .pdf and 6 more) ignored",
    ]


def test_plan_shows_value_reason_and_time(log: tuple[Reporter, io.StringIO]) -> None:
    reporter, stream = log
    reporter.report(PlanMade("runs/a", (Choice("epochs", "7", "as set"),), 1400, 200.0))
    reporter.report(PlanMade("runs/a", (), 1400, None))
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["epochs", "7", "as", "set"] in lines
    assert "1,400 steps, about 3 min 20 s".split() in lines and ["1,400", "steps"] in lines


def test_a_log_gets_a_line_an_epoch_and_no_bars(log: tuple[Reporter, io.StringIO]) -> None:
    reporter, stream = log
    with reporter:
        reporter.report(Progress("decoding", 1, 2))
        reporter.report(StepDone(1, 2, 1, 1, 4.2, 12.0))
        reporter.report(EpochDone(1, 4.25, 0.1, 12.34, 61.0))
    assert stream.getvalue() == "epoch 1  loss 4.2500  12.3 images/s  1 min 1 s\n"


def test_a_terminal_gets_a_bar_with_epoch_loss_and_pace(terminal: tuple[Reporter, Terminal]) -> None:
    reporter, stream = terminal
    with reporter:
        reporter.report(Progress("decoding", 1, 2))
        reporter.report(StepDone(1, 2, 1, 1, 4.2, 12.0))
        reporter.report(EpochDone(1, 4.25, 0.1, 12.34, 61.0))
        reporter.report(StepDone(2, 2, 1, 1, 4.1, 12.0))
    text = stream.getvalue()
    assert "Epoch 2/2  loss 4.100  12 images/s" in text and "2/2" in text
    assert "epoch 1 " not in text


def test_a_bar_is_ended_before_an_error_is_shown(terminal: tuple[Reporter, Terminal]) -> None:
    reporter, stream = terminal
    with reporter:
        reporter.report(Progress("decoding", 1, 2))
        reporter.print_error(InputError("What.", "Next."))
    assert stream.getvalue().rstrip().endswith("Next.")
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h")  # the cursor is back


def test_requested_stop_is_raised_at_the_next_event(log: tuple[Reporter, io.StringIO]) -> None:
    reporter, stream = log
    reporter.report(Note("before"))
    reporter.stop.request = Interrupted("Stopped.", "Resume.")
    with pytest.raises(Interrupted):
        reporter.report(Note("after"))
    assert stream.getvalue() == "before\nafter\n"


def test_error_is_two_lines(log: tuple[Reporter, io.StringIO]) -> None:
    reporter, stream = log
    reporter.print_error(InputError("There is no folder x.", "Check the path."))
    assert stream.getvalue() == "Error: There is no folder x.\nCheck the path.\n"


def test_no_color_takes_the_colors_away(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    monkeypatch.setenv("TERM", "xterm-256color")
    for wanted in ("", "1"):
        monkeypatch.setenv("NO_COLOR", wanted)
        stream = Terminal()
        reporter = Reporter(stream)
        reporter.print_error(InputError("What.", "Next."))
        reporter.report(Note("careful", warning=True))
        shown[wanted] = stream.getvalue()
    assert "31m" in shown[""] and "33m" in shown[""]
    assert "31m" not in shown["1"] and "33m" not in shown["1"]  # rich leaves bold, which is no color


def test_dumb_terminal_and_pipes_get_no_escape_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for stream in (Terminal(), io.StringIO()):
        reporter = Reporter(stream)
        reporter.print_error(InputError("What.", "Next."))
        assert "\x1b" not in stream.getvalue()


# Results


def test_table_is_lines_with_tabs_where_stdout_is_no_terminal(stdout: Callable[[], str]) -> None:
    Output().print_table(["rank", "path"], [["1", NASTY], ["2", "b" * 500]], title="not shown")
    text = stdout()
    lines = text.splitlines()
    assert [len(line.split("\t")) for line in lines] == [2, 2, 2]
    assert lines[0] == "rank\tpath" and lines[2] == "2\t" + "b" * 500
    assert "\x1b" not in text


def test_table_on_a_terminal_keeps_long_paths_whole_and_links_them(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", stream)
    names = ["p " * 100 + "p.png", "q.png", "[red]\u732b.png"]
    images = [f"/pics/{name}" for name in names]
    rows = [["a.png", "m" * 30, names[0]], ["a.png", "short", names[1]], ["b.png", "short", names[2]]]
    Output().print_table(["query", "meaning", "path"], rows, images=images)
    text = stream.getvalue()
    assert all(f";{Path(image).as_uri()}\x1b" in text for image in images)
    lines = re.sub(r"\x1b\].*?\x1b\\|\x1b\[[\d;]*m", "", text).splitlines()  # and no spaces that would wrap
    assert lines == [
        "meaning",
        "a.png",
        "m" * 30,
        f"  {names[0]}",
        "short",
        "  q.png",
        "b.png",
        "short",
        f"  {names[2]}",
    ]
    Output().print_table(["meaning", "path"], [["short", "q.png"]], images=images[1:2])
    assert "short    " in stream.getvalue()[len(text) :].splitlines()[-1]  # a narrow table has them in its rows


def test_a_line_on_a_terminal_keeps_words_whole() -> None:
    stream = Terminal()
    reporter = Reporter(stream)
    reporter.console.width = 20
    reporter.print(f"Searching {'p' * 50} with a run.")
    assert "p" * 50 in stream.getvalue() and all(len(line) <= 50 for line in stream.getvalue().splitlines())


def test_json_is_one_line_of_ascii_that_preserves_every_name(stdout: Callable[[], str]) -> None:
    result = SimilarResult("pics", "runs/a", 1, (QueryResult(NASTY, (Neighbor(1, NASTY, 0.5, 99.0, 10.0),)),), (NASTY,))
    Output().print_json(result)
    text = stdout()
    assert text.isascii() and text.count("\n") == 1
    assert json.loads(text)["queries"][0]["neighbors"][0]["path"] == NASTY


def test_line_is_never_wrapped(stdout: Callable[[], str]) -> None:
    Output().print_line("x" * 300)
    assert stdout() == "x" * 300 + "\n"


PRETRAINED = PretrainResult("runs/a", True, 2, 1200, 3, 5.5, 4.25, 100.0, 65.0, "d" * 64)
NEIGHBORS = (Neighbor(1, "a.png", 0.98765, 99.987, 70.0), Neighbor(2, "b.png", -0.5, 99.987, 3.0))


def test_pretrain_prints_the_run_and_the_next_commands(
    log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]
) -> None:
    show_pretrain(PRETRAINED, log[0], Output())
    talk = log[1].getvalue()
    assert stdout() == "runs/a\n"
    assert "Trained on 1,200 images for 2 epochs in 1 min 5 s; loss 5.500 -> 4.250, 100 images/s." in talk
    assert "Skipped 3 files; see runs/a/skipped.json." in talk
    assert all(f"simclr {verb}" in talk for verb in ("similar", "embed", "probe"))


def test_dry_run_has_no_data(log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]) -> None:
    show_pretrain(PretrainResult("runs/a", False, 2, 1200, 0, None, None, None, 1.0, None), log[0], Output())
    assert stdout() == "" and "Stopped after the plan" in log[1].getvalue()


def test_embed_prints_its_file(log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]) -> None:
    show_embed(EmbedResult("v.npy", "v.rows.json", 1200, 512, True, "runs/a", "d", 2, 5.0, 240.0), log[0], Output())
    assert stdout() == "v.npy\n"
    assert "1,200 x 512 float32, scaled to length 1" in log[1].getvalue()
    assert "Skipped 2 files; see v.rows.json." in log[1].getvalue()


def right(top_1: float) -> Accuracy:
    return Accuracy(top_1, top_1 - 2, top_1 + 2, top_1 - 1)


def test_probe_prints_a_row_a_representation_and_the_verdict(
    log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]
) -> None:
    scores = (Score("trained", right(61.24), right(60), right(70)), Score("untrained", right(40), right(39.96), None))
    few = FewLabels("trained", 10, "5 per class", 55.55, 1.23, 3)
    result = ProbeResult(
        "runs/a", 100, 25, ("a", "b"), 50.0, scores, "by seed", 0.07, 0, "d", verdict="It helped.", few_labels=(few,)
    )
    show_probe(result, log[0], Output())
    assert stdout().splitlines() == [
        "representation\tkNN k=20 %\tkNN k=200 %\tlinear %\t95 % interval\tbalanced %",
        "trained\t61.2\t60.0\t70.0\t68.0 to 72.0\t69.0",
        "untrained\t40.0\t40.0\t-\t38.0 to 42.0\t39.0",
        "labels\trepresentation\tlabeled images\tlinear %\tstd",
        "5 per class\ttrained\t10\t55.5\t1.2",
    ]
    assert "It helped." in log[1].getvalue()


def test_similar_prints_one_table_with_paths_relative_to_the_folder(
    log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]
) -> None:
    one = QueryResult("q.png", NEIGHBORS)
    show_similar(SimilarResult("pics", "runs/a", 9, (one,)), log[0], Output())
    assert stdout().splitlines() == [
        "rank\tsimilarity\tmeaning\tpath",
        "1\t0.9877\tas similar as two views of one image\ta.png",
        "2\t-0.5000\tmore similar than 99.98 % of random pairs\tb.png",
    ]
    below = Neighbor(1, str(Path("pics/a/b.png").resolve()), 0.5, 99.0, 1.0)
    queries = (one, QueryResult("b/c.png", (below,)), QueryResult("none.png", ()))
    show_similar(SimilarResult("pics", "runs/a", 9, queries, ("x.png: empty file",)), log[0], Output())
    assert stdout().splitlines() == [
        "query\trank\tsimilarity\tmeaning\tpath",
        "q.png\t1\t0.9877\tas similar as two views of one image\ta.png",
        "q.png\t2\t-0.5000\tmore similar than 99.98 % of random pairs\tb.png",
        "b/c.png\t1\t0.5000\tmore similar than 99 % of random pairs\ta/b.png",
    ]
    assert log[1].getvalue().splitlines() == [
        "Paths are relative to pics.",
        "No image is similar enough to 1 of 3 queries. Try a lower --min-similarity.",
        "Skipped: x.png: empty file",
    ]


def test_demo_shows_neighbors_and_comparison(log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]) -> None:
    scores = tuple(
        Score(name, right(k_20), right(k_200), None)
        for name, k_20, k_200 in (("trained", 90, 80), ("untrained", 50, 40), ("raw pixels", 60, 10))
    )
    show_demo(
        DemoResult("demo", 1600, ("a", "b"), scores, QueryResult("q.png", NEIGHBORS), 100.0, PRETRAINED),
        log[0],
        Output(),
    )
    text = stdout()
    assert "raw pixels\t60.0\t10.0" in text and "1\t0.9877\tas similar as two views of one image\ta.png" in text
    assert "kNN accuracy 90.0 %: 30.0 points above the best baseline (raw pixels), without labels" in log[1].getvalue()


KEPT = (
    FolderCache("/c/1", "/pics/birds", (48, 336), 2, 1_234_567_890, "2026-01-02T03:04:05+00:00"),
    FolderCache("/c/2", NASTY, (), 0, 1000, "2025-01-02T03:04:05+00:00"),
)


def test_cache_is_a_row_a_folder(log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]) -> None:
    show_cache(CacheResult("/c", False, 1_234_568_890, KEPT), log[0], Output())
    lines = stdout().splitlines()
    assert lines[0] == "folder\tdecoded size, px\tencoders\tMB\tlast used"
    assert lines[1] == "/pics/birds\t48, 336\t2\t1,234.6\t2026-01-02T03:04:05+00:00"
    assert lines[2] == f"{escape_unprintable(NASTY)}\t\t0\t0.0\t2025-01-02T03:04:05+00:00" and len(lines) == 3
    assert log[1].getvalue() == "Cache in /c: 1,234.6 MB for 2 folders.\n"


def test_cleared_cache_is_a_message_without_data(log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]) -> None:
    show_cache(CacheResult("/c\x1b[2J", True, 1000, KEPT[1:]), log[0], Output())
    assert stdout() == "" and log[1].getvalue() == "Deleted from /c\\x1b[2J: 0.0 MB for 1 folder.\n"


def test_empty_cache_is_a_message_without_data(log: tuple[Reporter, io.StringIO], stdout: Callable[[], str]) -> None:
    show_cache(CacheResult("/c", False, 0, ()), log[0], Output())
    assert stdout() == "" and log[1].getvalue() == "Cache in /c: 0.0 MB for 0 folders.\n"


def test_cache_on_a_terminal_keeps_long_paths_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys, "stdout", stream)
    kept = (FolderCache("/c/1", "p" * 100, (48,), 1, 10**6, "2026-01-02T03:04:05+00:00"),)
    show_cache(CacheResult("/c", False, 10**6, kept), Reporter(io.StringIO()), Output())
    assert "  " + "p" * 100 + "\n" in stream.getvalue() and "1.0" in stream.getvalue()


def test_a_command_to_copy_is_quoted_and_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    stream = Terminal()
    result = DuplicatesResult("my pics", None, 9, None, (), 0, 0, moved=3, moved_to="/away from here/" + "x" * 40)
    show_duplicates(result, Reporter(stream), Output())
    assert f"  simclr duplicates 'my pics' --restore '{result.moved_to}'\n" in stream.getvalue()


def test_a_terminal_shows_a_line_while_a_command_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        with Reporter(stream).show_meanwhile("Loading ..."):
            assert stream.getvalue() == ("Loading ...\r" if stream is terminal else "")
    assert terminal.getvalue().endswith("\x1b[2K") and log.getvalue() == ""


def test_a_log_has_a_line_at_once_and_one_after_every_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "LOG_SECONDS", 0.05)
    stream = io.StringIO()
    reporter = Reporter(stream)

    def wait_for(text: str) -> None:
        while text not in stream.getvalue():
            time.sleep(0.01)

    with reporter.keep_logging("Loading ..."):
        assert stream.getvalue() == "Loading ...\n"
        wait_for("Still running (0 s)")
        reporter.report(Progress("embedding", 1200, 5000))
        wait_for("Embedding: 1,200 of 5,000 (")
        stream.truncate(0)
        reporter.report(Progress("embedding", 5000, 5000))
        wait_for("Still running (")
    ended = stream.getvalue()
    time.sleep(0.15)
    assert stream.getvalue() == ended
