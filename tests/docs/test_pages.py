"""Pages that are made from the code are up to date, and links between pages lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])


@pytest.mark.parametrize("maker", sorted((ROOT / "docs").glob("*.py")), ids=lambda path: path.name)
def test_a_made_page_is_what_its_maker_makes(maker: Path) -> None:
    made = runpy.run_path(str(maker))
    assert made["PAGE"].read_text() == made["page"](), f"run: python {maker.relative_to(ROOT)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing
