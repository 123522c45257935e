"""What `dedn check` found as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dedn_hf.explain.page import template
from dedn_hf.metrics.scores import SCORES
from dedn_hf.modeling.saving import whole_file
from dedn_hf.studies.visibility import NOT_SHOWN, SHOWN

if TYPE_CHECKING:
    from dedn_hf.data.photos import Photos
    from dedn_hf.studies.forecast import Forecast
    from dedn_hf.studies.short_trainings import ShortTrainings
    from dedn_hf.traits import TraitReport


def write_page(
    path: str | Path,
    found: Photos,
    report: TraitReport,
    warnings: list[str],
    expected: Forecast | None = None,
    trained: ShortTrainings | None = None,
) -> None:
    """Write the page.

    Args:
        warnings: about the photos, to be shown above those about the table. expected: what to expect of classes
            without photos. trained: the same by trainings.
    """
    counts = dict(sorted(found.counts().items(), key=lambda item: item[1]))
    page = template("cli/check.html").render(
        title=f"{Path(found.root).name} and {Path(report.source).name}",
        photos=len(found.photos),
        counts=counts,
        most=max(counts.values(), default=1),
        named={folder: name for name, folder in report.matched.items()},
        without=report.names_without_photos,
        skipped=found.skipped,
        warnings=[*warnings, *report.warnings],
        report=report,
        expected=expected,
        trained=trained,
        meanings=SCORES,
        shown=SHOWN,
        hidden=NOT_SHOWN,
    )
    with whole_file(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
