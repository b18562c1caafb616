"""`dynamoctl` and `python -m dynamoctl`."""

from __future__ import annotations

import sys


def main() -> None:
    """The console script."""
    from dynamoctl.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
