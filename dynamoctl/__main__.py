"""`dynamoctl` and `python -m dynamoctl`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """The console script."""
    # Ctrl-C waits for the imports to end: then `run` can say what it did.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    from dynamoctl.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
