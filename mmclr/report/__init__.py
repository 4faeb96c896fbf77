"""One self-contained HTML page per run or evaluation."""

from mmclr.report.page import Page

__all__ = ["Page"]
