"""The documentation as a site: it is whole, and it loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("properdocs")

pytestmark = pytest.mark.xdist_group("site")

ROOT = Path(__file__).parents[2]
# What a browser fetches without being asked: not a link that somebody follows.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc="([^"]*)"|<link\b[^>]*\bhref="([^"]*)"|url\(([^)]*)\)"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--strict", "-f", "mkdocs.yml", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_it_and_nothing_of_the_makers(site: Path) -> None:
    pages = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= {page.relative_to(site) for page in site.rglob("*.html")}
    assert not [*site.rglob("*.py"), *site.rglob("faults.json")]


def test_links_out_of_docs_lead_to_copies(site: Path) -> None:
    text = (site / "config.html").read_text(encoding="utf-8")
    assert 'href="repository/examples/agg.toml"' in text
    assert (site / "repository/examples/agg.toml").read_bytes() == (ROOT / "examples/agg.toml").read_bytes()
    assert 'href="../design.html"' in (site / "repository/CONTRIBUTING.html").read_text(encoding="utf-8")


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    found = 0
    for file in [*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]:
        for matches in _FETCHED.findall(file.read_text(encoding="utf-8")):
            target = next(filter(None, matches), "").strip("'\"")
            found += 1
            assert not re.match(r"https?:|//", target), f"{file.relative_to(site)} loads {target}"
    assert found > 100
