"""A page over one run or many: what they are, their figures, their numbers."""

from typing import TYPE_CHECKING

from ctkd_lightning._lazy import lazy_names

if TYPE_CHECKING:
    from ctkd_lightning.reporting.after import SweepReport, report_run
    from ctkd_lightning.reporting.page import write_report

__all__ = ["SweepReport", "report_run", "write_report"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "SweepReport": "ctkd_lightning.reporting.after",
        "report_run": "ctkd_lightning.reporting.after",
        "write_report": "ctkd_lightning.reporting.page",
    },
)
