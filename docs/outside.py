"""A hook of the site: files outside docs/ that pages link to.

On a forge a page links to ../examples/agg.toml, and the link leads there. The site has only what is in docs/,
so these files are put into it, in a folder of their own, and links to and from them are turned there. A link
to any other file outside docs/ is an error of the strict build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from properdocs.structure.files import File

ROOT = Path(__file__).parents[1]
FOLDER = "repository"
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "dynamoctl/dynamoctl.schema.json",
    "examples/agg.toml",
    "examples/ask.py",
    "examples/disagg.toml",
)
_TARGET = re.compile(r"(?<=\]\()[^)#:\s]+")


def on_files(files: Any, config: Any) -> Any:
    for name in OUTSIDE:
        files.append(File.generated(config, f"{FOLDER}/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return _TARGET.sub(lambda found: turned(found[0], page.file.src_uri), markdown)


def turned(target: str, page: str) -> str:
    """A link's target as the site has it.

    Args:
        target: relative to the page, as the repository has both.
        page: the page in the site.
    """
    folder = posixpath.dirname(page)
    if page.startswith(f"{FOLDER}/"):
        source = posixpath.dirname(page.removeprefix(f"{FOLDER}/"))
    else:
        source = posixpath.join("docs", folder)
    path = posixpath.normpath(posixpath.join(source, target))
    if path in OUTSIDE:
        return posixpath.relpath(f"{FOLDER}/{path}", folder)
    if path.startswith("docs/"):
        return posixpath.relpath(path.removeprefix("docs/"), folder)
    return target
