"""Classes of images by their folders."""

import pytest

from simclr_cli.images.class_folders import find_class_folders, match_class_folders


def of(*folders: str, images: int = 2) -> tuple[str, ...]:
    """Return the names of images in each folder."""
    return tuple(f"{folder}/{i}.png" for folder in folders for i in range(images))


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (of("cat", "dog"), ("cat", "dog")),
        (("cat/1", "cat/x/y/2", "dog/1", "dog/x/2"), ("cat", "dog")),  # of the first level, whatever lies below
        (of("Zebra", "ant"), ("Zebra", "ant")),
        (of("cat"), ()),  # one folder only
        (("cat/1", "cat/2", "dog/1"), ()),  # a class of one, and one other
        (("1", "2", "3"), ()),
        (of("train", "bus"), ("bus", "train")),  # here a train is a vehicle
        (of("valid", "invalid"), ("invalid", "valid")),
        (of("test_positive", "test_negative"), ("test_negative", "test_positive")),
        (of("é", "\udcff"), ("é", "\udcff")),
        (of("e\u0301/a", "\u00e9/b", "dog"), ("dog", "\u00e9")),  # one class, however macOS writes it
        # Folders that wrap all.
        (of("dataset/cat", "dataset/dog"), ("cat", "dog")),
        (of("dataset/train/cat", "dataset/train/dog"), ("cat", "dog")),
        (of("train/cat", "train/dog", "unlabeled"), ("cat", "dog")),
        (of("dataset"), ()),
        (of("a/b/c/d/e/f/g/h/cat", "a/b/c/d/e/f/g/h/dog"), ("cat", "dog")),
        (of("a/b/c/d/e/f/g/h/i/cat", "a/b/c/d/e/f/g/h/i/dog"), ()),
    ],
)
def test_folders_look_like_classes(given: tuple[str, ...], classes: tuple[str, ...]) -> None:
    assert find_class_folders(given).classes == classes


@pytest.mark.parametrize(
    "splits",
    [
        ("train", "test"), ("Train", "VAL", "test"), ("training_set", "test_set"), ("train2017", "val2017"),
        ("train", "val", "unlabeled"), ("trainset", "testset"), ("TrainingData", "TestData"), ("train-images", "test"),
        ("seg_train", "seg_test", "seg_pred"), ("train", "test", "extra"), ("validation", "test"),
        ("bounding_box_train", "bounding_box_test", "query"), ("fold1", "fold2"), ("test_split", "train_split"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inside", ["", "/cat"])
@pytest.mark.parametrize("around", ["", "dataset/"])
def test_splits_are_not_classes(splits: tuple[str, ...], inside: str, around: str) -> None:
    folders = find_class_folders(of(*(f"{around}{split}{inside}" for split in splits)))
    assert folders.classes == ()
    assert "are splits, not classes" in folders.reason and splits[0] in folders.reason


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (("stray.png",), "1 image outside of the class folders (stray.png)"),
        (("bird/1.png",), "1 image alone in a folder (bird/1.png)"),
        (("all/stray.png", "readme.png"), "2 images outside of the class folders (readme.png, all/stray.png)"),
        (of("all/unlabeled", images=90), "90 images in a folder of unlabeled images"),
        (tuple(f"all/{i}/1" for i in range(5)), "5 images alone in a folder (all/0/1, all/1/1, all/2/1 and 2 more)"),
    ],
)
def test_few_odd_images_have_no_class_and_the_others_keep_theirs(odd: tuple[str, ...], reason: str) -> None:
    around = "all/" if any(name.startswith("all/") for name in odd) else ""
    names = of(f"{around}cat", f"{around}dog", images=10)
    folders = find_class_folders([*odd, *names])
    assert folders.reason == reason
    assert folders.labels == (*(None for _ in odd), *(name.split("/")[-2] for name in names))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((*of("cat", "dog", images=9), "a.png", "b.png", "c.png"), "3 of 21 images lie outside of the class folders"),
        ((*of("cat", "dog"), *(f"{i}/1.png" for i in range(5))), "most images are alone in their folder, such as 0/1"),
    ],
)
def test_many_odd_images_mean_no_classes(names: tuple[str, ...], reason: str) -> None:
    folders = find_class_folders(names)
    assert folders.classes == () and folders.reason.startswith(reason)


def test_held_out_images_are_matched_at_one_level() -> None:
    names = ("data/e\u0301/1.png", "data/cat/1.png", "data/bird/1.png", "cat/1.png", "2.png")
    assert match_class_folders(names, {"cat", "\u00e9"}) == {names[0]: "\u00e9", names[1]: "cat"}
    assert match_class_folders(("1.png",), {"cat"}) == {}
