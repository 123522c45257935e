"""The answers as one HTML page to look through, the least sure first: it loads nothing and runs no script."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from PIL import Image

from dedn_hf.explain.page import template

MOST = 10_000  # photos on a page: more do not help to look through, and make browsers slow
SECTION = 100  # photos that a browser lays out together, when they come near the screen
SIDE, QUALITY = 160, 65  # of a thumbnail: pixels of its longer side, and of JPEG


def thumbnail(image: Image.Image) -> str:
    """A small JPEG of an upright picture in RGB, as base64 text."""
    small, buffer = image.copy(), BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small.save(buffer, "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def write_page(path: Path, rows: Iterable[dict], title: str, summary: str) -> None:
    """Write the page.

    Args:
        rows: of the answers, with a 'thumbnail'. title: of the page. summary: a line about all photos.
    """
    broken: list[dict] = []

    def readable() -> Iterable[dict]:
        for row in rows:
            if not row["error"]:
                if row.get("rank", 1) == 1:
                    yield row
            elif len(broken) < MOST:
                broken.append(row)

    least_sure = heapq.nsmallest(MOST, readable(), key=lambda row: row["confidence"])
    sections = [least_sure[i : i + SECTION] for i in range(0, len(least_sure), SECTION)]
    page = template("classify/page.html").stream(
        title=title, summary=summary, sections=sections, size=SECTION, broken=broken
    )
    page.dump(str(path), encoding="utf-8", errors="backslashreplace")
