"""Write what the program itself says into the documentation, so that it cannot drift.

python docs/generate.py            write it
python docs/generate.py --check    exit 1 with the difference if it is out of date

Each page, or section of a page, is made by a module beside this one:

reference      docs/reference.md
json_page      docs/json.md and docs/schemas/: what `--json` prints
sections       parts of pages that people write: config, reliability, observability, first-tries
manpage        docs/dynamoctl.1

To add something generated:

a page                          a module with its path and its text, and a line in `pages` below
a section of reference.md       a part in `reference.page`, and a line in its table of contents
a section between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of a page that people write
                                `page_parts.with_section(PAGE, NAME, text)` and a line in `pages`; of a page
                                that has such a line already, `page_parts.between` around its text
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

import json_page
import manpage
import patch_table
import reference
import rule_table
import sections
from dynamoctl.config import json_schema
from page_parts import DOCS, table_rows, with_section

RULES = DOCS / "rules.md"
VERSIONS = DOCS / "versions.md"


def pages() -> dict[Path, str]:
    """File -> its text. A new page or a new section of a page is one more line here."""
    return {
        reference.REFERENCE: reference.page(),
        json_page.PAGE: json_page.page(),
        RULES: rule_table.page(),
        **json_page.schemas(),
        sections.CONFIG: sections.config(),
        sections.RELIABILITY: sections.reliability(),
        sections.OBSERVABILITY: sections.observability(),
        sections.FIRST_TRIES: sections.first_tries(),
        VERSIONS: with_section(VERSIONS, "patches", patch_table.table()),
        DOCS.parent / "dynamoctl" / json_schema.SCHEMA_NAME: json_schema.text(),
        DOCS / "dynamoctl.1": manpage.page(
            table_rows(reference.exit_codes()), table_rows(reference.ENVIRONMENT)
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it is out of date")
    options = parser.parse_args()
    current = True
    for page, new in pages().items():
        old = page.read_text(encoding="utf-8") if page.exists() else ""
        if old == new:
            continue
        if not options.check:
            page.parent.mkdir(exist_ok=True)
            page.write_text(new, encoding="utf-8")
            continue
        current = False
        before, after = (text.splitlines(keepends=True) for text in (old, new))
        name = str(page.relative_to(DOCS.parent))
        sys.stdout.writelines(difflib.unified_diff(before, after, name, "as it should be"))
        print(f"{name} is out of date: run python docs/generate.py", file=sys.stderr)
    return 0 if current else 1


if __name__ == "__main__":
    sys.exit(main())
