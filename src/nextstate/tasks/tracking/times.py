"""Times as posts state them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

FORMATS = (
    "%a %b %d %H:%M:%S %z %Y",  # Twitter
    "%Y-%m-%d %H:%M",  # hours of one digit, which ISO 8601 does not know
    "%Y-%m-%d %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
)


def moment(text: object) -> datetime | None:
    """The moment that a text or number states, in UTC; None if it states none.

    Read are ISO 8601, RFC 2822, Twitter's format, month/day/year, year/month/day, day.month.year, and
    seconds or milliseconds since 1970. A time without a zone is UTC.

    >>> moment("Tue Oct 18 21:53:25 +0000 2011").isoformat()
    '2011-10-18T21:53:25+00:00'
    >>> moment("2011-10-18 23:53:25 +02:00") == moment(1318974805) == moment("1318974805000")
    True
    >>> moment("2011-10-18 9:05").isoformat()
    '2011-10-18T09:05:00+00:00'
    >>> moment("yesterday") is None
    True
    """
    if isinstance(text, datetime):
        return _utc(text)
    text = str(text).strip() if text is not None else ""
    try:
        if text.replace(".", "", 1).isdigit() and len(text.split(".")[0]) in (9, 10, 12, 13):
            seconds = float(text)
            return datetime.fromtimestamp(seconds / 1000 if seconds >= 1e11 else seconds, UTC)
        return _utc(datetime.fromisoformat(text.replace(" +", "+").replace(" -", "-")))
    except (ValueError, OverflowError, OSError):
        pass
    for form in FORMATS:
        try:
            return _utc(datetime.strptime(text, form))
        except (ValueError, OverflowError):
            continue
    try:
        return _utc(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _utc(found: datetime) -> datetime:
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
