"""Weights go into the page cache ahead of the engine."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from pathlib import Path

import pytest
from dynamoctl.supervisor.read_ahead import read_ahead

SIZE = 96 * 1024 * 1024  # more than the kernel reads at one request


def cached_pages(path: Path) -> int:
    """How many of a file's pages are in memory (mincore(2)); looking at it reads nothing in."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    pages = SIZE // mmap.PAGESIZE
    answer = (ctypes.c_ubyte * pages)()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        at = libc.mmap(None, SIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        assert libc.mincore(ctypes.c_void_p(at), ctypes.c_size_t(SIZE), answer) == 0
        libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t(SIZE))
    finally:
        os.close(descriptor)
    return sum(page & 1 for page in answer)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file that is on the disk and not in memory."""
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(os.urandom(SIZE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system keeps its files in memory")
    return path


def test_a_files_pages_come_into_memory(cold: Path) -> None:
    assert read_ahead([cold], threading.Event()) == SIZE
    assert cached_pages(cold) == SIZE // mmap.PAGESIZE


def test_it_stops_when_it_is_told(cold: Path) -> None:
    stop = threading.Event()
    stop.set()
    assert read_ahead([cold], stop) == 0


def test_a_file_that_is_not_there_is_passed_over(cold: Path, tmp_path: Path) -> None:
    assert read_ahead([tmp_path / "gone", cold], threading.Event()) == SIZE
