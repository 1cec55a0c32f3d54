"""Pictures of a folder that are left out, and what would bring them in: each fault a function of facts."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simclr_cli.results.diagnosing import Diagnosis
from simclr_cli.verbs.premises import Premises
from simclr_cli.wording import count


@dataclass(frozen=True)
class Mendable:
    """Files that are refused for a reason with this word in it."""

    word: str
    name: str  # of the fault
    kind: str  # of the files
    command: str  # with the folder as {}


# In an argument of sh, where a name cannot be taken for anything else.
CONVERT = 'for f; do heif-convert "$f" "${f%.*}.jpg"; done'
MENDABLE = (
    Mendable("HEIC", "HEIC pictures", "HEIC", f"find {{}} -iname '*.hei[cf]' -exec sh -c '{CONVERT}' sh '{{}}' +"),
    Mendable("camera raw", "camera raw pictures", "camera raw", "exiftool -r -b -JpgFromRaw -w .jpg {}"),
    Mendable("no right", "unreadable pictures", "unreadable", "sudo chmod -R u+rX {}"),
    Mendable("permission", "unreadable pictures", "unreadable", "sudo chmod -R u+rX {}"),
)


def _command(mendable: Mendable, folder: str) -> str:
    return mendable.command.replace("{}", shlex.quote(folder), 1)


def no_pictures(here: Premises) -> Iterator[Diagnosis]:
    """None that could be used."""
    if here.pictures and here.pictures.error:
        folder, why = here.pictures.folder, here.pictures.error
        command = next((_command(one, folder) for one in MENDABLE if one.word in why), "simclr demo")
        yield Diagnosis("no pictures", "fault", why, "There is nothing to train on.", command)


def refused_pictures(here: Premises) -> Iterator[Diagnosis]:
    """Those that are left out, by what would bring them in."""
    if here.pictures is None:
        return
    folder, left = here.pictures.folder, list(here.pictures.refused)
    for one in MENDABLE:
        names = tuple(name for name, reason in left if one.word in reason)
        left = [(name, reason) for name, reason in left if one.word not in reason]
        if names:
            yield Diagnosis(
                one.name, "advice",
                f"{count(len(names), f'{one.kind} file')} in {folder}, the first of them {names[0]}.",
                "They are left out of everything.", _command(one, folder), names,
            )  # fmt: skip
    if left:
        reasons = Counter(reason for _, reason in left).most_common(3)
        told = "; ".join(f"{times:,} x {reason}" for reason, times in reasons)
        yield Diagnosis(
            "refused pictures", "advice",
            f"{count(len(left), 'file')} in {folder} cannot be used ({told}), the first of them {left[0][0]}.",
            "They are left out of everything; the others are used.",
            f"simclr doctor {shlex.quote(folder)} --json  # names them all, to be fetched again",
            tuple(name for name, _ in left),
        )  # fmt: skip


def pictures_on_a_network(here: Premises) -> Iterator[Diagnosis]:
    """Read over it in every epoch, where the cache does not hold them."""
    if here.pictures and here.pictures_network:
        folder = here.pictures.folder
        yield Diagnosis(
            "pictures on a network", "advice", f"{folder} is on a network file system ({here.pictures_network}).",
            "The first reading is slow; what has no room in the cache is read over the network in every epoch.",
            f"rsync -a {shlex.quote(folder.rstrip('/') + '/')} ~/{shlex.quote(Path(folder).resolve().name)}/",
        )  # fmt: skip


CHECKS: tuple[Callable[[Premises], Iterator[Diagnosis]], ...] = (
    no_pictures, refused_pictures, pictures_on_a_network,
)  # fmt: skip
