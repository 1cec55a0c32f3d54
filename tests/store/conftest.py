"""Vectors of images with unusual names."""

from __future__ import annotations

import os

import numpy as np
import pytest

from simclr_cli.store.vectors import Vectors

UNUSUAL_NAMES = [
    b"=1+1.png", b"+1.png", b"-1.png", b"@x.png", b"'=1.png", b"=", b"=cmd|' /C calc'!A0", b'"', b'""', b"'", b",",
    b"a,b.png", b'a"b,"c".png', b"\n", b"\r", b"\r\n", b"a\nb.png", b"\ta", b"a\tb.png", b"\\", b"\\x41", b"\\\\x41",
    b"\\n", b"\xff", b"\\\xff", b"\xc3", b"\xed\xb3\xbf", b"caf\xe9.png", "größe.png".encode(), "😀".encode(),
    "\u202etxt.png".encode(), "\u2028".encode(), "\x85".encode(), "\ufeff".encode(), "\u3000a".encode(), b"NA", b"null",
    b"nan", b"inf", b"1.0", b"True", b" ", b" lead", b"trail ", b"#", b"h_0", b"path", b"x" * 255, b"\xff" * 255,
    "é".encode() * 127, b"\x1b[31mred", b"[bold]", b"</script><script>alert(1)</script>", b"{{7*7}}", b"%s%n", b"\x7f",
]  # fmt: skip


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Return more than 500 file names as in a census: sorted by their bytes, some in folders."""
    random = np.random.default_rng(0)
    allowed = np.array([byte for byte in range(1, 256) if byte != ord("/")], np.uint8)
    names = {random.choice(allowed, random.integers(1, 256)).tobytes() for _ in range(500)}
    names |= {b"folder/" + name for name in UNUSUAL_NAMES[:20]} | {b"=folder/a", b"\xff\t/a"}
    names |= {name for name in UNUSUAL_NAMES if b"/" not in name}
    return tuple(os.fsdecode(name) for name in sorted(names))


@pytest.fixture(scope="session")
def vectors(hostile: tuple[str, ...]) -> Vectors:
    """Return vectors of seven numbers of all magnitudes, one for each of these names."""
    random = np.random.default_rng(1)
    bits = random.integers(0, 2**32, (len(hostile), 7), dtype=np.uint32)
    values = bits.view(np.float32)
    values[~np.isfinite(values)] = 0.1
    values[0] = [0.0, -0.0, 1e-45, 3.4028235e38, 1 / 3, 16777217.0, 0.1]
    return Vectors(
        values=values, rows=hostile, root=os.fsdecode(b"/caf\xe9\n\"'"), model_checksum="a" * 64, normalized=False,
        source_fingerprint="f" * 64, skipped=({"name": hostile[3] + ".jpg", "reason": "truncated"},),
    )  # fmt: skip
