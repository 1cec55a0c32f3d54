"""`simclr report`: views, neighbors and figures of a run, and a reason for each part that is missing."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from runs import SMALL

from simclr_cli.api import (
    Accuracy,
    ClassScore,
    Confusion,
    LabelError,
    PretrainSettings,
    ProbeResult,
    ReportResult,
    ReportSettings,
    Score,
    SimilarSettings,
)
from simclr_cli.commands import report as module
from simclr_cli.commands.pretrain import pretrain
from simclr_cli.commands.report import NO_PROBE, read_probe, report
from simclr_cli.commands.similar import similar
from simclr_cli.core.errors import Interrupted, RunError
from simclr_cli.core.events import Event, Note, StopController
from simclr_cli.core.files import write_bytes
from simclr_cli.encode.load import load_run_encoder
from simclr_cli.engine.augment import TwoViews
from simclr_cli.evaluate.run_samples import compare_views, draw_first_views, sample_neighbors
from simclr_cli.images.census import USED
from simclr_cli.images.scan import take_census
from simclr_cli.store.index_files import read_index
from simclr_cli.store.run import RunFolder
from simclr_cli.store.run_info import read_run_info

CPU = torch.device("cpu")


def make(run: Any, **values: Any) -> tuple[ReportResult, str]:
    result = report(ReportSettings(run=str(run.path), **values))
    return result, Path(result.out).read_text(encoding="utf-8")


def probe_result() -> ProbeResult:
    accuracy = Accuracy(70.0, 60.0, 80.0, 69.0)
    score = Score("trained", accuracy, accuracy, accuracy)
    other = Score("untrained", accuracy, accuracy, None, 3.0, 1.0, 5.0)
    return ProbeResult(
        "run", 40, 8, ("dots", "rings"), 50.0, (score, other), "a fifth", 0.07, 0, "d", verdict="It helps.",
        per_class=(ClassScore("dots", 20, 4, 75.0, None),), confusion=(Confusion("dots", "rings", 1),),
        label_errors=(LabelError("dots/1.png", "dots", "rings", 0.1),), folder="x",
    )  # fmt: skip


def test_pretrain_leaves_a_page_that_opens(trained: Any, visit: Callable[..., Any]) -> None:
    assert trained.result.report == str(trained.run.report_file)
    visited = visit(trained.run.report_file, width=375)
    assert visited.complaints == [] and visited.requests == [trained.run.report_file.as_uri()]
    assert visited.ask("document.documentElement.scrollWidth") <= 375
    words = visited.ask("document.body.innerText")
    assert "48 images" in words and "as set" in words and NO_PROBE in words and "No file was skipped." in words
    # 8 images with 2 views each, 6 with 6 neighbors each
    assert visited.ask("document.images.length") == 8 * 3 + 6 * 7
    assert visited.ask("document.querySelectorAll('svg.heat-map rect').length") == 16 * 16
    assert trained.run.report_file.stat().st_size < 1_000_000


def test_the_page_made_again_is_the_same(own: Any) -> None:
    first, page = make(own.run)
    second, again = make(own.run)
    assert page == again and first == second
    assert first.finished and first.bytes == len(page.encode()) and first.out == str(own.run.report_file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("test_images",), [7]), (("chance",), None), (("classes",), "dots"), (("scores",), {}), (("scores", 0), None),
        (("scores", 0, "gain"), "x"), (("scores", 0, "knn_20", "low"), True), (("per_class", 0, "recall"), "75"),
        (("verdict",), 7),
    ],
)  # fmt: skip
def test_probe_with_values_of_other_types_is_named_in_the_page(tmp_path: Path, path: Any, value: Any) -> None:
    file = tmp_path / "probe.json"
    content = json.loads(json.dumps(dataclasses.asdict(probe_result())))
    file.write_text(json.dumps(content))
    assert read_probe(file) == probe_result()
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    file.write_text(json.dumps(content))
    assert "cannot be read" in str(read_probe(file))


def test_views_are_those_of_the_first_step_of_training(
    trained: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train once more, and record the views that the model gets."""
    recorded: list[torch.Tensor] = []
    make_views = TwoViews.make

    def record(self: TwoViews, *arguments: Any) -> torch.Tensor:
        views = make_views(self, *arguments)
        recorded.append(views.clone())
        return views

    monkeypatch.setattr(TwoViews, "make", record)
    monkeypatch.setattr("simclr_cli.train.prepare.measure_bytes_per_view", lambda *_: 1)
    monkeypatch.setattr("simclr_cli.commands.pretrain.try_report", lambda *_, **__: None)
    result = train(trained.images, seed=5)
    expected = next(views for views in recorded if len(views) == 32)  # (2 * 16, 3, 40, 40); validation has more
    run = RunFolder(Path(result.run))
    names, views = draw_first_views(take_census(trained.images), read_run_info(run).settings, workers=2)
    assert len(names) == len(set(names)) == 8
    assert torch.equal(views, torch.cat([expected[:8], expected[16:24]]))


def test_the_matrix_is_the_cosines_of_z_in_loops(trained: Any) -> None:
    ready = load_run_encoder(trained.run, CPU)
    settings = read_run_info(trained.run).settings
    _, views = draw_first_views(take_census(trained.images), settings, 2, most=3)
    similarity, of = compare_views(views, ready, settings)
    from safetensors.torch import load_file

    from simclr_cli.engine.simclr import ProjectionHead

    head = ProjectionHead(ready.encoder.width, layers=2, dimensions=128).eval()
    head.load_state_dict(load_file(trained.run.projection_head_file))
    with torch.no_grad():
        z = head(ready.encoder(views)).double().numpy()
    assert of == "z" and similarity.shape == (6, 6)
    for i in range(6):
        for j in range(6):
            cosine = z[i] @ z[j] / np.sqrt(z[i] @ z[i]) / np.sqrt(z[j] @ z[j])
            assert similarity[i, j] == pytest.approx(cosine, abs=1e-5)


def test_without_a_head_the_matrix_is_of_h(own: Any) -> None:
    own.run.projection_head_file.unlink()
    _, page = make(own.run)
    assert "Cosine similarity of the h of each view" in page


def test_a_head_that_does_not_fit_is_a_run_error(own: Any) -> None:
    own.run.write_projection_head({"weight": torch.zeros(2)})
    with pytest.raises(RunError, match="does not fit"):
        make(own.run)


def test_neighbors_are_those_of_similar(own: Any) -> None:
    """Compare with `simclr similar`, from the vectors that it has stored."""
    sample = own.images / "dots/0000.png"
    similar(SimilarSettings(queries=(sample,), run=str(own.run.path)))
    ready = load_run_encoder(own.run, CPU)
    index = read_index(own.run.vectors_folder, model_checksum=ready.checksum)
    settings = read_run_info(own.run).settings
    shown = sample_neighbors(ready, own.run, take_census(own.images), settings, 2, lambda _: None)
    assert not isinstance(shown, str) and "all 48 images" in shown.lead and len(shown.rows) == 6
    for first, *others in shown.rows:
        found = similar(SimilarSettings(queries=(own.images / first.name,), run=str(own.run.path), top=6)).queries[0]
        assert [str(own.images / hit.name) for hit in others] == [hit.path for hit in found.neighbors]
        assert [hit.similarity for hit in others] == pytest.approx(
            [hit.similarity for hit in found.neighbors], abs=1e-5
        )
        assert index is not None and first.name in index.names and all(hit.uri for hit in others)


def test_without_vectors_a_sample_is_embedded_and_nothing_else_is_written(
    own: Any, checksum: Callable[..., Any]
) -> None:
    before = checksum(own.run.path), checksum(own.images)
    _, page = make(own.run)
    after = checksum(own.run.path), checksum(own.images)
    written = dict.fromkeys((b"report.html".hex(),))
    assert {**after[0], **written} == {**before[0], **written} and after[1] == before[1]
    assert "among all 48 images" in page and not own.run.vectors_folder.exists()


def test_a_large_folder_is_sampled(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simclr_cli.evaluate.run_samples.MAX_EMBEDDED_IMAGES", 20)
    own.run.write_skipped([("bricks/0000.png", f"{USED}the end is missing")])
    _, page = make(own.run)
    assert "among a sample of 20 images" in page
    assert "the end is missing" in page and "The folder has changed since" not in page


def test_images_that_are_gone_are_said_to_be_gone(own: Any, visit: Callable[..., Any]) -> None:
    shutil.rmtree(own.images)
    events: list[Event] = []
    report(ReportSettings(run=str(own.run.path)), report=events.append)
    assert [event.warning for event in events if isinstance(event, Note) and "The report shows none" in event.text]
    result, page = make(own.run)
    assert page.count(f"There is no folder {own.images}.") == 2 or page.count(f"There is no {own.images}.") == 2
    assert result.finished and "<polyline" in page
    assert visit(page).complaints == []


def test_a_neighbor_whose_file_is_gone_stands_there_by_name(own: Any) -> None:
    similar(SimilarSettings(queries=(own.images / "dots/0000.png",), run=str(own.run.path)))
    for path in sorted(own.images.rglob("*.png"))[::2]:
        path.unlink()
    _, page = make(own.run)
    assert "cannot be read" in page and "The folder has changed since" in page


@pytest.mark.parametrize("left", [1, 2, 9, 20])
def test_a_folder_that_has_fewer_images_than_a_batch_by_now_is_shown(own: Any, left: int) -> None:
    info = read_run_info(own.run)
    settings = dataclasses.replace(info.settings, held_out=8)
    own.run.write_config(dataclasses.replace(info, settings=settings).to_config())
    for path in sorted(own.images.rglob("*.*"))[left:]:
        path.unlink()
    names, views = draw_first_views(take_census(own.images), settings, workers=1)
    assert settings.batch_size == 16 and len(names) == len(set(names)) == min(8, max(1, left - 8))
    assert len(views) == 2 * len(names)
    assert "The folder has changed since" in make(own.run)[1]


def test_an_unfinished_run_has_a_page_too(own: Any) -> None:
    shutil.rmtree(own.run.encoder_folder)
    result, page = make(own.run)
    assert not result.finished and "Not finished" in page
    assert "Neighbors are shown once the run is finished." in page and page.count('class="pixelated"') == 16
    own.run.metrics_file.unlink()
    assert "No epoch is complete yet." in make(own.run)[1]


def test_the_newest_run_is_shown_without_a_name(own: Any) -> None:
    assert report(ReportSettings(runs=own.runs)).run == str(own.run.path)
    with pytest.raises(RunError, match="no run under"):
        report(ReportSettings(runs=own.runs / "none"))
    with pytest.raises(RunError, match="no run nowhere"):
        report(ReportSettings(run="nowhere", runs=own.runs))
    with pytest.raises(RunError, match="not the folder of a run"):
        report(ReportSettings(run=str(own.images)))


def test_probe_and_outcome_are_read_as_they_were_written(own: Any) -> None:
    found = probe_result()
    own.run.probe_folder.mkdir()
    kept = {**dataclasses.asdict(found), "of_a_later_version": 1}
    (own.run.probe_folder / "probe.json").write_text(json.dumps(kept))
    Image.new("RGB", (2_000, 2_000), "red").save(own.run.probe_folder / "confusion.png")
    own.run.outcome_file.write_text(json.dumps({"state": "learning", "words": "It learns. Go on."}))
    assert read_probe(own.run.probe_folder / "probe.json") == found
    _, page = make(own.run)
    assert "It helps." in page and "It learns. Go on." in page and 'alt="Confusion matrix"' in page
    assert "70.0 (60.0 to 80.0)" in page


@pytest.mark.parametrize(
    ("state", "kept", "gain", "overruled"),
    [("unchanged", None, 9.0, True), ("learning", None, -9.0, True), ("learning", None, 9.0, False),
     ("unchanged", None, None, False), ("unchanged", "start", 9.0, False)],
)  # fmt: skip
def test_the_probe_overrules_an_outcome_that_it_contradicts(
    own: Any, state: str, kept: str | None, gain: float | None, overruled: bool
) -> None:
    found = probe_result()
    low, high = (-5.0, 5.0) if gain is None else (gain - 1, gain + 1)
    untrained = dataclasses.replace(found.scores[1], gain=gain or 0.0, gain_low=low, gain_high=high)
    own.run.probe_folder.mkdir()
    probe = dataclasses.replace(found, scores=(found.scores[0], untrained))
    (own.run.probe_folder / "probe.json").write_text(json.dumps(dataclasses.asdict(probe)))
    own.run.outcome_file.write_text(json.dumps({"state": state, "words": "So it is.", "kept": kept}))
    _, page = make(own.run)
    assert ("found otherwise than the training. It helps. The training: So it is." in page) == overruled
    assert ('class="outcome good"' in page) == ((state == "learning") != overruled)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"scores": [3]}', '{"scores": [{"knn_20": 3}]}', "\xff"])
def test_damaged_probe_and_outcome_do_not_stop_the_page(own: Any, content: str) -> None:
    own.run.probe_folder.mkdir()
    for name in ("probe.json", "confusion.png"):
        (own.run.probe_folder / name).write_bytes(content.encode("latin-1"))
    own.run.outcome_file.write_bytes(content.encode("latin-1"))
    assert "probe.json cannot be read" in make(own.run)[1]


def test_damaged_metrics_are_a_run_error(own: Any) -> None:
    write_bytes(own.run.metrics_file, b'{"epoch": 1}\n{"epo')
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read"):
        make(own.run)


def test_config_without_choices_is_that_of_an_earlier_version(own: Any) -> None:
    config = json.loads(own.run.config_file.read_bytes())
    assert {"name": "epochs", "value": "2", "reason": "as set"} in config["choices"]
    del config["choices"]
    own.run.write_config(config)
    assert "The settings of this run." in make(own.run)[1]


def test_a_page_that_fails_does_not_fail_the_run(
    trained: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> int:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(module, "write_report", failing)
    events: list[Event] = []
    result = train(trained.images, report=events.append, page=True)
    notes = [event.text for event in events if isinstance(event, Note) and event.warning]
    assert result.finished and result.report is None and RunFolder(Path(result.run)).is_finished
    (note,) = notes
    assert "(ZeroDivisionError: by chance.)" in note and f"simclr report {result.run}" in note


def test_a_stop_while_the_page_is_made_leaves_a_finished_run(trained: Any, train: Callable[..., Any]) -> None:
    def stopping(event: Event) -> None:
        if "report.html" in getattr(event, "stage", ""):
            raise Interrupted("Stopped by Ctrl-C.", "")

    result = train(trained.images, report=stopping, page=True)
    assert result.finished and result.report is None


def test_a_stop_by_another_thread_while_the_page_is_made_says_that_the_run_is_finished(
    trained: Any, train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It said to run the command again, which would train another run, or was an error."""
    stop, said = StopController(), []

    def slow(*_: object, **__: object) -> int:
        assert stop.training is not None
        said.append(stop.training.save_and_interrupt(Interrupted))
        return stop.training.save()

    monkeypatch.setattr(module, "write_report", slow)
    values: dict[str, Any] = {**SMALL, "epochs": 1, "runs": tmp_path / "my runs", "run": "a b"}
    pretrain(PretrainSettings(images=trained.images, **values), stop=stop)
    (error,) = said
    assert "is finished, but has no report" in error.problem and stop.training is None
    assert error.remedy == f"Write the report with: simclr report '{tmp_path / 'my runs' / 'a b'}'"


def test_names_that_are_no_utf_8_and_markup_come_through(
    train: Callable[..., Any], draw: Callable[..., NDArray[np.uint8]], tmp_path: Path, visit: Callable[..., Any]
) -> None:
    folder = tmp_path / "pics <b>"
    names = (b"\xff\xfe.png", b"<img src=x onerror=alert(1)>.png", "\u202egnp.png".encode(), b"a&'\".png")
    for i, name in enumerate(names):
        draw(folder / os.fsdecode(name), i)
    (folder / "broken <i>.jpg").write_bytes(b"\xff\xd8\xff nothing")
    result = train(folder, batch_size=4, page=True)
    visited = visit(Path(result.report))
    assert visited.complaints == [] and len(visited.requests) == 1
    words = visited.ask("document.documentElement.textContent")
    for name in (
        "\\udcff\\udcfe.png",
        "<img src=x onerror=alert(1)>.png",
        "\\u202egnp.png",
        "broken <i>.jpg",
        "pics <b>",
    ):
        assert name in words
    assert visited.ask("document.querySelectorAll('b:not(figcaption b), main p:not(.scale) i, td i').length") == 0


def test_choices_of_a_run_stay_those_it_was_begun_with(
    trained: Any, train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if type(event).__name__ == "StepDone":
            raise Interrupted("Stopped by Ctrl-C.", "")

    with pytest.raises(Interrupted):
        train(trained.images, report=stop, epochs=2, run="two")
    run = RunFolder(tmp_path / "runs" / "two")
    begun = read_run_info(run).choices
    pretrain(PretrainSettings(resume=True, run="two", runs=tmp_path / "runs"))
    assert read_run_info(run).choices == begun and any(choice.reason != "as set" for choice in begun)
