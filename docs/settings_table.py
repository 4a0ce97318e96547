"""Writes docs/settings.md from controller/settings.py: `python docs/settings_table.py`."""

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from controller.settings import Settings

PAGE = Path(__file__).with_name("settings.md")
HEAD = """\
<!-- Written by docs/settings_table.py from controller/settings.py; change that. -->
# Settings

Environment variables, or the same lines in a file `.env` where the controller starts. They are checked at the start; an error names the
variable. Docker's own variables count too: `DOCKER_HOST`, `DOCKER_TLS_VERIFY`, `DOCKER_CERT_PATH`, and its current context.

| variable | default | |
|---|---|---|
"""


def _rows(fields: dict[str, FieldInfo], prefix: str = "") -> Iterator[str]:
    for name, field in fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.default, BaseModel):
            yield from _rows(type(field.default).model_fields, f"{variable}__")
        else:
            yield f"| `{variable}` | {_shown(field.default)} | {field.description} |"


def _shown(default: object) -> str:
    if default in (None, ()):
        return ""
    if isinstance(default, int) and not isinstance(default, bool) and default >= 2**20 and default % 2**20 == 0:
        return f"`{default // 2**20}Mi`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def page() -> str:
    """The whole of docs/settings.md."""
    return HEAD + "\n".join(_rows(Settings.model_fields)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
