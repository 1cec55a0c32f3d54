"""The gallery: groups of images, each image with a link to its file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simclr_cli.core.text import escape_unprintable, format_count
from simclr_cli.pages.page import Section, render_page, render_template

TAIL = 12  # characters of a label that stay visible in a narrow column: numbers and extensions stand at its end
# Files that a browser opens as pages, which may run a script. An image under such a name can hold one.
PAGE_EXTENSIONS = tuple(
    ".htm .html .ehtml .shtml .xhtml .xht .xhtm .xml .xsl .xslt .rdf .svg .svgz .mht .mhtml .pdf .js .mjs .swf".split()
)


def is_safe_to_link(name: str) -> bool:
    """Return whether a browser opens a file of this name as an image and not as a page."""
    return not name.lower().rstrip(". ").endswith(PAGE_EXTENSIONS)


@dataclass(frozen=True)
class GalleryImage:
    """An image in the gallery."""

    name: str  # its path, shown as the tooltip
    label: str  # shown below the image
    link: str  # file: URI
    uri: str | None  # data: URI of a thumbnail, or None if the image cannot be decoded
    caption: str
    is_pixelated: bool = False  # so small that it is enlarged by whole pixels

    @property
    def label_parts(self) -> tuple[str, str]:
        """The beginning of the label, which a narrow column cuts, and its end."""
        label = escape_unprintable(self.label)
        return label[:-TAIL], label[-TAIL:]


@dataclass(frozen=True)
class GalleryGroup:
    """A group of images in the gallery."""

    heading: str
    lead: str
    images: tuple[GalleryImage, ...]
    total: int  # images of the group, including those that are not on the page
    has_sample: bool  # the first image is the one that the others were found for


def render_gallery(title: str, lead: str, groups: Sequence[GalleryGroup]) -> str:
    """Return the page as HTML: a section for each group, with its images in a grid."""
    sections = []
    for group in groups:
        first = f"the first {len(group.images):,} of " if len(group.images) < group.total else ""
        grid = render_template(
            "gallery.html", images=group.images, has_sample=group.has_sample, is_safe_to_link=is_safe_to_link
        )
        sections.append(Section(group.heading, group.lead, grid, note=first + format_count(group.total, "image")))
    return render_page(title, sections, lead=lead)
