"""The gallery: groups of images that were found, each with a link to its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simclr_cli.core.text import count, safe
from simclr_cli.pages.page import Section, page, render

TAIL = 12  # characters of a name that are seen however narrow its column is: where numbers and endings stand
# What a browser opens as a page, which may run a script: an image can be that as well, if its bytes are so chosen.
PAGES = tuple(
    ".htm .html .ehtml .shtml .xhtml .xht .xhtm .xml .xsl .xslt .rdf .svg .svgz .mht .mhtml .pdf .js .mjs .swf".split()
)


def opens(name: str) -> bool:
    """Whether a click may open the file of this name."""
    return not name.lower().rstrip(". ").endswith(PAGES)


@dataclass(frozen=True)
class Found:
    """An image in the gallery."""

    name: str  # the whole path, under the pointer
    label: str  # the name below it
    link: str  # file: URI
    uri: str | None  # data: URI of a thumbnail, or None where it cannot be shown
    words: str
    by_pixels: bool = False  # so small that it is enlarged by whole pixels

    @property
    def parts(self) -> tuple[str, str]:
        """The name as its beginning, which may be cut short, and its end."""
        label = safe(self.label)
        return label[:-TAIL], label[-TAIL:]


@dataclass(frozen=True)
class Part:
    """A group in the gallery."""

    heading: str
    lead: str
    images: tuple[Found, ...]
    total: int  # images of the group, those that are not on the page as well
    marked: bool  # whether the first image is the one that the others belong to


def gallery_page(title: str, lead: str, parts: Sequence[Part]) -> str:
    """HTML: a section a group, its images in a grid."""
    sections = []
    for part in parts:
        first = f"the first {len(part.images):,} of " if len(part.images) < part.total else ""
        grid = render("gallery.html", images=part.images, marked=part.marked, opens=opens)
        sections.append(Section(part.heading, part.lead, grid, note=first + count(part.total, "image")))
    return page(title, sections, lead=lead)
