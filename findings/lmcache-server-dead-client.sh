#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# LMCache's server keeps the KV cache of a dead worker mapped, longer than its limit for silent workers.
#
# Library   lmcache 0.5.6: its server, and `lmcache bench server`, the client that comes with it.
# Input     A server with --worker-reap-timeout-seconds 30, the shortest that it takes. The client registers a KV
#           cache in shared memory, stores and retrieves with it for some seconds, and is killed (SIGKILL).
# Expected  The server removes what the client registered, and unmaps its memory, 30 to 38 s later: it looks every
#           quarter of the limit.
# Seen      A minute later both are still there. The limit counts only for a client that has sent a PING, and a
#           transfer is none. For others the limit is --worker-registration-grace-seconds: an hour. vLLM's
#           connector sends its first PING with its first request. On a GPU the mapped memory is the worker's whole
#           KV cache (seen on an H200: 131,462 MiB, free after 132 s, because that worker had sent a PING), and the
#           next worker there has none.
#
# It installs about 4 GB. Exit code 0 if this is still so, 1 if not.
set -euo pipefail

work=$(mktemp -d)
server='' client=''
clean() {
    [ -z "$client" ] || kill -KILL "$client" 2>/dev/null || true
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait 2>/dev/null || true
    [ -z "$client" ] || rm -f /dev/shm/lmcache_kv_"$client"_*
    rm -rf "$work"
}
trap clean EXIT

echo "Installing lmcache 0.5.6 ..."
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check lmcache==0.5.6 torch==2.13.0
export LMCACHE_DISABLE_BANNER=1
cd "$work"

read -r rpc http < <("$work/venv/bin/python" - <<'PY'
import socket

held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))
PY
)

"$work/venv/bin/lmcache" server --host 127.0.0.1 --port "$rpc" --http-host 127.0.0.1 --http-port "$http" \
    --l1-size-gb 0.5 --eviction-policy LRU --worker-reap-timeout-seconds 30 >server.log 2>&1 &
server=$!

# The clients that the server knows, and how many files of this client's shared memory it has mapped.
registered() {
    "$work/venv/bin/python" - "$http" <<'PY'
import json
import sys
import urllib.request

try:
    with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/status", timeout=10) as answer:
        print(len(json.load(answer)["registered_gpu_ids"]))
except OSError:
    print(0)
PY
}
mapped() { grep -c "/dev/shm/lmcache_kv_${client}_" "/proc/$server/maps" || true; }

for _ in $(seq 120); do
    kill -0 "$server" || { tail -5 server.log; exit 1; }
    (: <"/dev/tcp/127.0.0.1/$rpc") 2>/dev/null && (: <"/dev/tcp/127.0.0.1/$http") 2>/dev/null && break
    sleep 1
done
"$work/venv/bin/lmcache" bench server --rpc-url "tcp://127.0.0.1:$rpc" --url "http://127.0.0.1:$http" --mode cpu \
    --transfer-mode lmcache_driven --kvcache-shape-spec '(2,1024,16,8,64):float16:8' --interval 1 >client.log 2>&1 &
client=$!
for _ in $(seq 120); do
    [ "$(registered)" = 1 ] && break
    kill -0 "$client" || { tail -5 client.log; exit 1; }
    sleep 1
done
sleep 5
kill -0 "$client"
echo "lmcache 0.5.6, the client alive: $(registered) registered, $(mapped) files of its memory mapped"
kill -KILL "$client"
wait "$client" 2>/dev/null || true
for waited in 40 60; do
    sleep $((waited == 40 ? 40 : 20))
    echo "$waited s after it was killed: $(registered) registered, $(mapped) files mapped"
done
echo "Expected: 0 registered and 0 files mapped after 38 s, by --worker-reap-timeout-seconds 30"
if [ "$(registered)" = 1 ] && [ "$(mapped)" -gt 0 ]; then
    echo "Seen: the memory of the dead client is still mapped"
    exit 0
fi
echo "Changed: the server lets go of it"
exit 1
