#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# glibc maps a named semaphore under a name that does not exist.
#
# Library   glibc (seen with 2.36), through the semaphore of Python's multiprocessing (seen with 3.11), which
#           calls sem_open(3). No package is needed.
# Expected  A process that has opened the semaphore "/NAME" has /dev/shm/sem.NAME in its /proc/PID/maps, as with
#           any other mapped file. A search for that path, which is what `grep` in maps, `fuser` by name and most
#           scripts do, finds the processes that use it.
# Seen      The file exists and is mapped, but maps shows another name, marked "(deleted)". A search by path finds
#           nobody. sem_open makes the file under a random name, maps it, links it to its real name and removes the
#           first one; the kernel shows the name under which it was opened. The inode in maps is the right one.
#           A second process that opens the same semaphore shows the real name: only the creator is hidden.
#
# Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/semaphore.py" <<'PY'
import multiprocessing
import os
import platform
import subprocess
import sys

# What a process has mapped from /dev/shm: inode and name, as /proc/PID/maps has them.
SHOW_MAPS = """
def mapped():
    with open("/proc/self/maps") as maps:
        fields = [line.rstrip().split(maxsplit=5) for line in maps if "/dev/shm/" in line]
    return sorted((int(inode), name) for _, _, _, _, inode, name in fields)
"""
OPEN = SHOW_MAPS + """
import _multiprocessing, sys
semaphore = _multiprocessing.SemLock._rebuild(0, 1, 1, sys.argv[1])
print(*(f"{inode} {name}" for inode, name in mapped()), sep="\\n")
"""
exec(SHOW_MAPS)

print(f"{' '.join(platform.libc_ver())}, Python {platform.python_version()}, Linux {platform.release()}")
# Under "spawn" the name stays, so that a child can open it.
semaphore = multiprocessing.get_context("spawn").Semaphore(1)
name = semaphore._semlock.name
path = f"/dev/shm/sem.{name.removeprefix('/')}"
inode = os.stat(path).st_ino
creator = mapped()
opened = subprocess.run(
    [sys.executable, "-c", OPEN, name], check=True, capture_output=True, text=True, timeout=30
).stdout.strip()

print(f"the file:            {inode} {path}")
for number, shown in creator:
    print(f"maps of the creator: {number} {shown}")
print(f"maps of a second process that opens it: {opened}")

by_path = [shown for _, shown in creator if shown == path]
by_inode = [shown for number, shown in creator if number == inode]
print(f"expected: the creator found by path 1 time; seen: {len(by_path)} by path, {len(by_inode)} by inode")
is_as_described = not by_path and len(by_inode) == 1 and by_inode[0].endswith(" (deleted)")
is_as_described = is_as_described and opened == f"{inode} {path}"
print("as described" if is_as_described else "CHANGED: not as described")
sys.exit(not is_as_described)
PY
timeout 60 python3 "$work/semaphore.py"
