"""The page about the fields is the CRD's."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_as_the_crd_says() -> None:
    written = runpy.run_path(str(DOCS / "sandbox_fields.py"))["page"]()
    assert (DOCS / "sandbox.md").read_text() == written, "call: python docs/sandbox_fields.py"
