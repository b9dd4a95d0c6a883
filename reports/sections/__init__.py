"""The sections of the page, one file each; see reports/section.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reports.records import Detail
    from reports.run import Run


def knee_detail(run: Run) -> Detail:
    """The recommended point in detail. Raises NotApplicable where the run has none, saying what is missing."""
    from reports.section import NotApplicable

    if run.summary is None:
        raise NotApplicable("summary.json is missing or damaged, so no design is recommended.")
    if run.summary.knee is None:
        raise NotApplicable("The summary recommends no design.")
    detail = run.knee_detail
    if detail is None:
        knee = run.summary.knee
        raise NotApplicable(f"timelines/{knee.design}-{knee.point}.json is missing or damaged.")
    return detail
