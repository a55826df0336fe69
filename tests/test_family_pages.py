"""docs/families is what `ganbench show --out docs/families` writes: one page a family, none of families gone."""

from pathlib import Path

import pytest

from ganbench.commands.show import page
from ganbench.plugins import names

PAGES = Path(__file__).parent.parent / "docs" / "families"


@pytest.mark.parametrize("name", names("family"))
def test_page_is_up_to_date(name):
    file = PAGES / f"{name}.md"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    assert text == page(name) + "\n", "run: ganbench show --out docs/families"


def test_every_page_has_its_family():
    assert {file.stem for file in PAGES.glob("*.md")} - {"index"} == set(names("family"))
