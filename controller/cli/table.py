"""Tables as kubectl prints them."""

from collections.abc import Sequence
from datetime import datetime

from controller.cli.connection import printable


def rows_of_text(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, three spaces between them; control characters are replaced."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("   ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def age(created_at: str | None, now: datetime) -> str:
    """`42s`, `7m`, `3h` or `12d` since an RFC 3339 time."""
    if not created_at:
        return "?"
    seconds = max(0, int((now - datetime.fromisoformat(created_at)).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
