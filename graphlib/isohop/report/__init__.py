"""What a person looks at: one HTML file about one run.

The public names load on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_LAZY = {
    "ReportSettings": "isohop.report.settings",
    "write_report": "isohop.report.report",
}

__all__ = ["ReportSettings", "write_report"]

if TYPE_CHECKING:
    from isohop.report.report import write_report
    from isohop.report.settings import ReportSettings


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'isohop.report' has no attribute {name!r}")
