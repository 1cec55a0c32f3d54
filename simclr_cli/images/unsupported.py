"""Image formats that cannot be read, by signature or extension, and folders of systems, which hold no images of theirs.

HEIC and the formats that can be read are in `formats`, camera raw in `scan` and `tiff`.
"""

from __future__ import annotations

import re
from pathlib import PurePath

START_BYTES = 512  # of a file that hold every signature

FORMATS = {  # name: signature, extensions
    "JPEG XL": (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", ".jxl"),
    "JPEG 2000": (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n", ".jp2 .j2k .j2c .jpc .jpf .jpx .jpm"),
    "JPEG XR": (rb"II\xbc\x01", ".jxr .wdp .hdp"),
    "TGA": (None, ".tga"),
    "PSD": (rb"8BPS", ".psd .psb"),
    "XCF": (rb"gimp xcf", ".xcf"),
    "DDS": (rb"DDS \x7c\0\0\0", ".dds"),
    "OpenEXR": (rb"\x76\x2f\x31\x01", ".exr"),
    "Radiance HDR": (rb"#\?(RADIANCE|RGBE)\n", ""),
    "DICOM": (rb".{128}DICM", ".dcm .dicom"),
    "NIfTI": (rb".{344}n[i+]1\0", ".nii"),
    "FITS": (rb"SIMPLE  = {20}", ".fits .fit .fts"),
    "SVG": (rb"(\xef\xbb\xbf)?\s*(<[?!].*)?<svg[\s>]", ".svg .svgz"),
    "ICO": (None, ".ico .cur"),
    "ICNS": (rb"icns.{4}", ".icns"),
    "PCX": (None, ".pcx"),
    "PAM": (rb"P7\n", ".pam"),
    "PFM in color": (rb"PF\s", ""),
    "QOI": (rb"qoif", ".qoi"),
}  # fmt: skip
SIGNATURES = {name: re.compile(signature, re.DOTALL) for name, (signature, _) in FORMATS.items() if signature}
FORMATS_BY_EXTENSION = {
    extension: name for name, (_, extensions) in FORMATS.items() for extension in extensions.split()
}

# Thumbnails, trash and so on of Synology, QNAP, Windows, Linux, macOS and Android; in lower case.
SYSTEM_FOLDERS = frozenset(
    (
        "@eadir", "@tmp", "@sharebin", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin",
        "recycler", "recycled", "system volume information", "lost+found", "lost.dir", "__macosx",
    )
)  # fmt: skip


def is_system_folder(name: str) -> bool:
    """Return whether a folder is one that a system makes in a user's folders, by its name."""
    return name.lower() in SYSTEM_FOLDERS


def find_unsupported_format(name: str, start: bytes) -> str | None:
    """Return the format of an image that cannot be read; None if it is no such image.

    Args:
        name: of the file, whose extension counts if no signature is found.
        start: its first START_BYTES.
    """
    by_signature = (format for format, signature in SIGNATURES.items() if signature.match(start))
    return next(by_signature, FORMATS_BY_EXTENSION.get(PurePath(name).suffix.lower()))
