"""Folders of another user's: an error that names them, and never a traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .test_first_tries import dynamoctl

ANOTHER_USER = 65534


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A folder that is there and may not be looked into, not even by root without his capabilities."""
    folder = tmp_path / "theirs"
    (folder / "inner").mkdir(parents=True)
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("root may read all, and there is no setpriv (Debian: util-linux)")
        os.chown(folder, ANOTHER_USER, ANOTHER_USER)
    folder.chmod(0)
    return folder


def said(folder: Path, *words: str, **environ: str) -> tuple[int, str]:
    prefix = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
    done = dynamoctl(folder, *words, prefix=prefix, **environ)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.parametrize("below", ["", "inner"])
def test_a_model(locked: Path, tmp_path: Path, below: str) -> None:
    model = str(locked / below)
    code, text = said(tmp_path, "up", "agg", "--device", "cpu", "--model", model)
    assert (code, f"{model} cannot be read: Permission denied" in text) == (3, True)


@pytest.mark.parametrize("words", ["status", "status --all", "down", "down --all", "logs", "cache check"])
def test_deployments(locked: Path, tmp_path: Path, words: str) -> None:
    code, text = said(tmp_path, *words.split(), DYNAMOCTL_HOME=str(locked))
    assert code == 1
    assert f"cannot read {locked}" in text
    assert "become that user, or set DYNAMOCTL_HOME" in text
