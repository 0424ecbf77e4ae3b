"""Sentiment over time: posts kept in a file, an index a topic and day, days that changed."""

from nextstate.tasks.tracking.index import Day, Entry, Report, report_of
from nextstate.tasks.tracking.store import Post, Store, read_report
from nextstate.tasks.tracking.times import moment

__all__ = ["Day", "Entry", "Post", "Report", "Store", "moment", "read_report", "report_of"]
