"""Tables of labels: as spreadsheets and pandas write them, and matched with the names of files."""

import os
import unicodedata
from pathlib import Path

import pytest

from simclr_cli.core.errors import InputError
from simclr_cli.core.events import Event, Note
from simclr_cli.images.label_table import match_labels, read_labels, report_similar_labels

PLAIN = {"cat/é 1.jpg": "größe", "dog/2.jpg": "dog"}


def table(folder: Path, content: str | bytes) -> Path:
    path = folder / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def match(file: Path, root: Path, *names: str) -> tuple[dict[str, str], list[str]]:
    """Return the labels by name, and the warnings."""
    events: list[Event] = []
    labels = match_labels(file, root, names, events.append)
    return labels, [event.text for event in events if isinstance(event, Note) and event.warning]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("path,label\r\na.png,x\r\n", {"a.png": "x"}),
        ('path,label\n"a, b.png","say ""hi"""\n', {"a, b.png": 'say "hi"'}),
        ('"label", "path"\n"big cat", "a, b.png"\n', {"a, b.png": "big cat"}),  # as people write lists
        ('path,label\n"new\nline.png",x\n', {"new\nline.png": "x"}),
        ("label,split,path\nx,train,a.png\n", {"a.png": "x"}),
        ("path,label\n\na.png,x\n,\n\n", {"a.png": "x"}),  # Excel keeps rows that were cleared
        ("path,label\na.png,x\na.png,x \n", {"a.png": "x"}),  # twice the same is no contradiction
        ("path,label\na.png, big cat\u00a0\nb.png,e\u0301\n", {"a.png": "big cat", "b.png": "\u00e9"}),
        ("path,label\n", {}),
    ],
)
def test_tables_as_they_come(tmp_path: Path, content: str, expected: dict[str, str]) -> None:
    assert read_labels(table(tmp_path, content)) == expected


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("index", [False, True])
def test_separators_encodings_and_index_columns(tmp_path: Path, separator: str, encoding: str, index: bool) -> None:
    rows = [("path", "label"), *PLAIN.items()]
    lines = [separator.join(([str(i - 1) if i else ""] if index else []) + [*row]) for i, row in enumerate(rows)]
    file = table(tmp_path, "\r\n".join(lines).encode(encoding))
    assert match(file, tmp_path, *PLAIN) == (PLAIN, [])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separator_that_excel_names_itself(tmp_path: Path, encoding: str) -> None:
    content = "sep=|\r\npath|label\r\na.png|x\r\n".encode(encoding)
    assert read_labels(table(tmp_path, content)) == {"a.png": "x"}


@pytest.mark.parametrize(
    "header",
    ["Path,Label", "FILE,CLASS", "File Name,Class Name", "image_path,Category", "filename,target", "name,labels",
     "image,class", "img , label", '"Path","Label"'],
)  # fmt: skip
def test_names_of_columns(tmp_path: Path, header: str) -> None:
    assert read_labels(table(tmp_path, f"{header}\na.png,x\n")) == {"a.png": "x"}


def test_path_counts_more_than_name(tmp_path: Path) -> None:
    assert read_labels(table(tmp_path, "class,name,label,path\n7,a,x,b/a.png\n")) == {"b/a.png": "x"}


def test_names_that_are_not_utf8_are_matched_first_as_they_are(tmp_path: Path) -> None:
    file = table(tmp_path, b"path,label\ncaf\xe9.png,x\n")
    assert match(file, tmp_path, "caf\udce9.png", "caf\u00e9.png")[0] == {"caf\udce9.png": "x"}
    assert match(file, tmp_path, "caf\u00e9.png")[0] == {"caf\u00e9.png": "x"}


@pytest.mark.parametrize(
    "path",
    ["./cat/1.png", "cat\\1.png", ".\\cat\\1.png", "cat//1.png", " cat/1.png ", "images/cat/1.png", "{}/cat/1.png"],
)
def test_ways_to_write_a_path(tmp_path: Path, path: str) -> None:
    root = tmp_path / "images"
    root.mkdir()
    file = table(tmp_path, f"path,label\n{path.format(root)},x\n")
    assert match(file, root, "cat/1.png") == ({"cat/1.png": "x"}, [])


def test_table_elsewhere_names_images_from_the_working_directory_or_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tables").mkdir()
    root = tmp_path / "data" / "images"
    root.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    file = table(tmp_path / "tables", "path,label\ndata/images/1.png,x\nimages/2.png,y\n")
    assert match(file, root, "1.png", "2.png") == ({"1.png": "x", "2.png": "y"}, [])


def test_link_to_the_folder_and_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for base in ("real", "link"):
        file = table(tmp_path, f"path,label\n{tmp_path}/{base}/1.png,x\n")
        assert match(file, tmp_path / "link", "1.png") == ({"1.png": "x"}, [])


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_form_of_unicode(tmp_path: Path, in_table: str, on_disk: str) -> None:
    plain = ["é.png", "ü/가.png", "a.png"]
    names = [unicodedata.normalize(on_disk, name) for name in plain]  # type: ignore[arg-type]
    rows = "".join(f"{unicodedata.normalize(in_table, name)},{i}\n" for i, name in enumerate(plain))  # type: ignore[arg-type]
    assert match(table(tmp_path, f"path,label\n{rows}"), tmp_path, *names) == (dict(zip(names, "012", strict=True)), [])


def test_of_two_forms_of_one_name_each_row_has_its_own(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\ne\u0301.png,x\n\u00e9.png,y\n")
    assert match(file, tmp_path, "e\u0301.png", "\u00e9.png")[0] == {"e\u0301.png": "x", "\u00e9.png": "y"}
    with pytest.raises(InputError, match="two labels, x and y"):
        match(file, tmp_path, "\u00e9.png")


def test_rows_and_images_that_remain_are_counted_and_named(tmp_path: Path) -> None:
    rows = "".join(f"{i}.png,x\n" for i in range(40))
    file = table(tmp_path, f"path,label\n{rows}")
    labels, warnings = match(file, tmp_path, *(f"{i}.png" for i in range(5, 43)))
    assert len(labels) == 35
    assert warnings == [
        f"{file} names no image in {tmp_path} in 5 of 40 rows: 0.png, 1.png, 2.png and 2 more.",
        f"{file} has no label for 3 of 38 images: 40.png, 41.png, 42.png.",
    ]


@pytest.mark.parametrize(("matched", "fits"), [(0, False), (19, False), (20, True)])
def test_fewer_than_half_of_the_rows_is_an_input_error(tmp_path: Path, matched: int, fits: bool) -> None:
    file = table(tmp_path, "path,label\n" + "".join(f"{i}.png,x\n" for i in range(40)))
    names = [*(f"{i}.png" for i in range(matched)), "other.png"]
    if fits:
        assert len(match(file, tmp_path, *names)[0]) == matched
        return
    with pytest.raises(InputError, match=f"names no image in .* in {40 - matched} of 40 rows: ") as caught:
        match(file, tmp_path, *names)
    assert names[0] in caught.value.remedy and caught.value.exit_code == 3


def test_labels_that_differ_only_by_case_are_named() -> None:
    events: list[Event] = []
    report_similar_labels({"1": "Cat", "2": "cat", "3": "CAT", "4": "dog"}, events.append)
    (note,) = events
    assert isinstance(note, Note) and note.warning
    assert note.text == "3 labels differ only by case: CAT, Cat, cat. Each is a class of its own."
    report_similar_labels({"1": "cat", "2": "dog"}, events.append)
    assert len(events) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "columns none"),
        ("path\na.png\n", "has the columns path"),
        ("id,breed\na.png,x\n", "has the columns id, breed"),
        ("a.png,x\nb.png,y\n", "has the columns a.png, x"),  # without names
        ("path,label\na.png,x\n,y\n", "lacks a path in line 3"),
        ("path,label\na.png,x\nb.png,x\na.png,y\n", "gives a.png two labels, x and y"),
    ],
)
def test_unusable_tables_are_input_errors_with_the_reason(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        read_labels(table(tmp_path, content))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("content", [b"PK\3\4\x14\0", b"\x1f\x8b\b\0", b"\0" * 98, "path".encode("utf-32")])
def test_files_that_are_not_text_are_input_errors(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="it is not text"):
        read_labels(table(tmp_path, content))


def test_table_of_no_end_is_an_input_error_at_once(tmp_path: Path) -> None:
    os.truncate(table(tmp_path, "path,label\n"), 2**40)
    with pytest.raises(InputError, match="more than"):
        read_labels(tmp_path / "labels.csv")


@pytest.mark.parametrize("rows", ["", "a.png,\n", "a.png\n"])
def test_table_without_rows_is_an_input_error(tmp_path: Path, rows: str) -> None:
    with pytest.raises(InputError, match="has no rows"):
        match(table(tmp_path, f"path,label\n{rows}"), tmp_path, "a.png")


def test_images_of_rows_without_a_label_are_named(tmp_path: Path) -> None:
    file = table(tmp_path, "path,label\na.png,x\nb.png,\nc.png\n")
    labels, warnings = match(file, tmp_path, "a.png", "b.png", "c.png")
    assert labels == {"a.png": "x"} and warnings == [f"{file} has no label for 2 of 3 images: b.png, c.png."]


def test_missing_table_and_folder_as_table_are_input_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_labels(path)


def test_field_without_an_end_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(table(tmp_path, 'path,label\n"' + "a" * 200_000))
