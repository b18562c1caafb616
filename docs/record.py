"""Record a real terminal session as a picture: docs/images/NAME.svg.

    uv run --no-project --with rich --with pyte docs/record.py up-agg "dynamoctl up agg"

Each command line runs in a pseudo-terminal of a fixed size, by `sh -c`, one after another; a terminal
emulator (pyte) keeps the screen, so that progress that redraws itself ends up as a person would see it
at the end. rich draws that screen. What ends with a failure is drawn too, and makes this exit 1 unless
--allow-failure is given.

pyte is a tool for the documentation alone, so it is not among the project's dependencies.
"""

from __future__ import annotations

import argparse
import fcntl
import itertools
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from pathlib import Path
from typing import Any

IMAGES = Path(__file__).parent / "images"
TOP_OF_HISTORY = 2000

# pyte's names of the eight colours, with the bright ones, as rich has them.
_COLOURS = {"brown": "yellow"}


def run(
    command: str, columns: int, rows: int, timeout_s: float, feed: Any, interrupt_s: float | None = None
) -> int:
    """Run one command line in a pseudo-terminal, hand its bytes to `feed`; its exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        # The child waits until the terminal has its size.
        os.read(0, 1)
        environ = {
            **os.environ,
            "TERM": "xterm-256color",
            "COLUMNS": str(columns),
            "LINES": str(rows),
        }
        environ.pop("NO_COLOR", None)
        os.execvpe("/bin/sh", ["sh", "-c", command], environ)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    attributes = termios.tcgetattr(terminal)
    attributes[3] &= ~termios.ECHO  # the newline that lets the child go is not part of the picture
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    os.write(terminal, b"\n")
    began = time.monotonic()
    try:
        while True:
            left = (timeout_s if interrupt_s is None else interrupt_s) - (time.monotonic() - began)
            if left <= 0 and interrupt_s is not None:
                os.write(terminal, b"\x03")  # as if Ctrl-C had been pressed
                interrupt_s = None  # once
                continue
            if left <= 0:
                os.kill(pid, 15)
                raise SystemExit(f"'{command}' has not ended within {timeout_s:g} s")
            if not select.select([terminal], [], [], left)[0]:
                continue
            try:
                data = os.read(terminal, 65536)
            except OSError:  # EIO: the last process has closed the terminal
                break
            if not data:
                break
            feed(data)
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rich_style(cell: Any) -> str:
    """The style of one cell of pyte's screen, as rich writes it."""
    words = [name for name in ("bold", "italics", "underscore", "reverse") if getattr(cell, name)]
    words = [{"italics": "italic", "underscore": "underline"}.get(word, word) for word in words]
    if cell.fg != "default":
        words.append(_colour(cell.fg))
    if cell.bg != "default":
        words.append("on " + _colour(cell.bg))
    return " ".join(words)


def _colour(name: str) -> str:
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return "#" + name
    bright, name = name.startswith("bright"), name.removeprefix("bright")
    name = _COLOURS.get(name, name)
    return f"bright_{name}" if bright else name


def draw(screen: Any, columns: int) -> Any:
    """Every line that the session wrote, scrolled-off ones first, as rich text."""
    from rich.text import Text

    lines = [*screen.history.top, *(screen.buffer[row] for row in range(screen.lines))]
    text = Text(no_wrap=True)
    for line in lines:
        cells = [(line[column].data, rich_style(line[column])) for column in range(columns)]
        row = Text()
        for style, run_of_cells in itertools.groupby(cells, key=lambda cell: cell[1]):
            row.append("".join(data for data, _ in run_of_cells), style)
        row.rstrip()
        text.append_text(row).append("\n")
    text.rstrip()
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name", help="the picture is docs/images/NAME.svg")
    parser.add_argument(
        "commands", nargs="+", metavar="COMMAND", help="a shell command line, shown as $ COMMAND"
    )
    parser.add_argument("--out", type=Path, default=IMAGES, help="another folder for the picture")
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--title", default="dynamoctl")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for each command")
    parser.add_argument("--interrupt-after", type=float, help="seconds until Ctrl-C for the last command")
    parser.add_argument("--allow-failure", action="store_true", help="a failing command is meant")
    options = parser.parse_args()
    try:
        import pyte
        from rich.console import Console
    except ImportError as error:
        print(
            f"docs/record.py needs {error.name}: uv run --no-project --with rich --with pyte docs/record.py",
            file=sys.stderr,
        )
        return 2

    screen = pyte.HistoryScreen(options.columns, options.rows, history=TOP_OF_HISTORY, ratio=0.5)
    stream = pyte.ByteStream(screen)
    failed = []
    for number, command in enumerate(options.commands):
        if number:
            stream.feed(b"\r\n")
        stream.feed(f"\x1b[1m$ {command}\x1b[0m\r\n".encode())
        interrupt_s = options.interrupt_after if number == len(options.commands) - 1 else None
        code = run(command, options.columns, options.rows, options.timeout, stream.feed, interrupt_s)
        if code:
            failed.append(f"'{command}' ended with {code}")
        if screen.cursor.x:
            stream.feed(b"\r\n")

    text = draw(screen, options.columns)
    console = Console(record=True, width=options.columns, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / f"{options.name}.svg"
    # A fixed id keeps the file the same where the session was.
    svg = console.export_svg(title=options.title, unique_id=options.name)
    # rich names a font on the web; a picture in a README may not load it, and needs none.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    picture.write_text(svg, encoding="utf-8")
    print(picture)
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed and not options.allow_failure else 0


if __name__ == "__main__":
    sys.exit(main())
