"""Log lines for a person or for a machine, each with the object it is about. No code, no output, no secrets in them."""

import json
import logging
import sys
from datetime import UTC, datetime

from controller.settings import LogSettings

_OBJECT = ("sandbox_namespace", "sandbox_name", "sandbox_uid")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        name = getattr(record, "sandbox_name", None)
        return line if name is None else f"{line} [sandbox {record.sandbox_namespace}/{name}]"  # type: ignore[attr-defined]


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key.removeprefix("sandbox_"): getattr(record, key) for key in _OBJECT if hasattr(record, key)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(settings: LogSettings) -> None:
    """Log to stderr as the settings say; libraries only from WARNING on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if settings.format == "json" else _Text("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("controller").setLevel(settings.level)
    logging.getLogger("kopf").setLevel(logging.ERROR)
