"""What each command answers with `--json`: plain dataclasses, one module per command, and their envelope."""
