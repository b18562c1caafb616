#!/usr/bin/env bash
# default: disagg, Qwen/Qwen3-0.6B, at http://127.0.0.1:8000/v1
#
# Written by dynamoctl VERSION: dynamoctl export shell disagg.
# It starts the processes of the plan in their order, waits until a completion came back, and stays.
# Ctrl-C, SIGTERM, or the end of one of them stops all, the last first. Nothing is restarted, and
# nobody keeps the registration of a process that was frozen: `dynamoctl up` does both.
#
# It needs bash, curl and setsid, and the Python environment for which it was written.
# The logs are in ./NAME-logs, or in $LOGS.
# shellcheck disable=SC1003,SC2016,SC2317,SC2329
set -euo pipefail

name=default
python=python
model=Qwen/Qwen3-0.6B
endpoint=http://127.0.0.1:8000
logs=$(realpath -m "${LOGS:-$name-logs}")
timeout=1800  # seconds until it must have answered
patience=30  # seconds that each process gets to end

say() { printf '%s: %s\n' "$name" "$*" >&2; }
fail() {
  say "error: $*"
  exit 1
}

declare -A pids=()

start() { # UNIT: its function, in a session and a folder of its own
  mkdir "$folder/$1"
  (cd "$folder/$1" && "$1") </dev/null >"$logs/$1.log" 2>&1 &
  pids[$1]=$!
  say "$1 starts"
}

lives() { kill -0 "${pids[$1]}" 2>/dev/null; }

all_live() {
  local unit
  for unit in "${!pids[@]}"; do
    lives "$unit" && continue
    tail -n 10 "$logs/$unit.log" >&2
    fail "$unit has ended; its log is $logs/$unit.log"
  done
}

get() { curl --silent --globoff --noproxy '*' --max-time 10 "$@"; }
is_200() { get --fail --output /dev/null "$1"; }
says() { get "$1" | grep -E "$2" >/dev/null; }

await() { # WHAT COMMAND...: ask again and again
  local what=$1
  shift
  until "$@"; do
    all_live
    ((SECONDS < timeout)) || fail "$what is not ready after $timeout s; the logs are in $logs"
    sleep 0.5
  done
  say "$what is ready after $SECONDS s"
}

end() { # UNITS...: one SIGTERM each, time to end, and SIGKILL for what is left of their sessions
  local unit until=$((SECONDS + patience))
  for unit in "$@"; do
    [[ -v pids[$unit] ]] || continue
    say "$unit stops"
    kill -TERM "${pids[$unit]}" 2>/dev/null || true
  done
  for unit in "$@"; do
    [[ -v pids[$unit] ]] || continue
    while lives "$unit" && ((SECONDS < until)); do sleep 0.2; done
    for _ in {1..15}; do # its helpers end by themselves, and remove what it shared
      kill -0 -- "-${pids[$unit]}" 2>/dev/null || break
      sleep 0.2
    done
    if kill -KILL -- "-${pids[$unit]}" 2>/dev/null; then say "what was left of $unit was killed"; fi
  done
}

stop() {
  local code=$?
  trap '' INT TERM HUP
  end prefill-0
  end decode-0
  end frontend
  rm -rf "$folder"
  exit "$code"
}

# ---- before anything is started

[[ -x $python ]] || fail "$python, with the engine's packages, is not there"
for port in 8000 20000 20001 20005 20006 20007 20011; do
  if (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "port $port is taken"; fi
done
ulimit -Sn "$(ulimit -Hn)"  # vLLM asks for 65535 open files
umask 077
mkdir -p "$logs"
folder=$(mktemp -d /tmp/dctl-XXXXXXXX)
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# ---- what every process gets

unset DYN_BENCHMARK_HYBRID_LIVE_STATE DYN_BENCHMARK_MODE DYN_BENCHMARK_POINTS_FILE \
    DYN_BENCHMARK_RANDOMIZE_KDA_STATE DYN_CONNECTOR DYN_ENDPOINT DYN_ENDPOINT_TYPES \
    DYN_FORWARDPASS_METRIC_PORT DYN_FPM_TRACE DYN_GMS_USE_V1 DYN_HTTP_SVC_CHAT_PATH \
    DYN_HTTP_SVC_CMP_PATH DYN_HTTP_SVC_LIVE_PATH DYN_HTTP_SVC_METRICS_PATH DYN_HTTP_SVC_MODELS_PATH \
    DYN_INTERACTIVE DYN_KSERVE_GRPC_SERVER DYN_KV_STATE_ENDPOINT DYN_METRICS_PREFIX DYN_MODEL_PATH \
    DYN_NAMESPACE_PREFIX DYN_NAMESPACE_WORKER_SUFFIX DYN_OUTPUT_MODALITIES DYN_RESPONSE_PLANE \
    DYN_ROUTER_LOAD_AWARE DYN_ROUTER_MIN_INITIAL_WORKERS DYN_ROUTER_MODE DYN_SNAPSHOT_CONTROL_DIR \
    DYN_SYSTEM_HEALTH_PATH DYN_SYSTEM_PORT DYN_SYSTEM_STARTING_HEALTH_STATUS \
    DYN_SYSTEM_USE_ENDPOINT_HEALTH_STATUS DYN_TCP_RESPONSE_STREAM_PORT DYN_TCP_RPC_PORT \
    DYN_TLS_CERT_PATH DYN_TLS_CLIENT_CA_CERT_PATH DYN_TLS_KEY_PATH DYN_TOPOLOGY_ENABLED \
    DYN_VLLM_CLASSIFY_WORKER DYN_VLLM_EMBEDDING_FRONTEND_TOKENIZATION DYN_VLLM_EMBEDDING_PROCESS_ROLE \
    DYN_VLLM_EMBEDDING_WORKER DYN_VLLM_EMBEDDING_WORKER_PROCESSES DYN_VLLM_GMS_SHADOW_MODE \
    DYN_VLLM_HEADLESS DYN_VLLM_MULTIMODAL_DECODE_WORKER DYN_VLLM_MULTIMODAL_ENCODE_WORKER \
    DYN_VLLM_MULTIMODAL_WORKER DYN_VLLM_REALTIME DYN_VLLM_ROUTE_TO_ENCODER DYN_VLLM_USE_TOKENIZER \
    DYN_ZMQ_BROKER_ENABLED DYN_ZMQ_BROKER_URL ENABLE_LMCACHE LMCACHE_CONFIG_FILE LMCACHE_GDS_PATH \
    LMCACHE_REMOTE_URL PROMETHEUS_MULTIPROC_DIR PYTHONDONTWRITEBYTECODE VLLM_DP_MASTER_IP \
    VLLM_DP_MASTER_PORT VLLM_DP_RANK VLLM_DP_RANK_LOCAL VLLM_DP_SIZE
mkdir "$folder/store"  # fresh: a stale one lists a model that is not there
export DYN_FILE_KV="$folder/store"
export VLLM_RPC_BASE_PATH="$folder"  # its sockets
export DYN_DISCOVERY_BACKEND=file
export DYN_TCP_RESPONSE_STREAM_HOST=lo
export DYN_EVENT_PLANE_HOST=127.0.0.1
export DYN_REQUEST_PLANE=tcp
export DYN_EVENT_PLANE=zmq
export DYN_TCP_RPC_HOST=127.0.0.1
export DYN_SYSTEM_HOST=127.0.0.1
export DYN_NAMESPACE=dynamoctl-default
export PYTHONHASHSEED=0
export PYTHONUNBUFFERED=1
export SPT_NOENV=1
export DYN_SKIP_SGLANG_LOG_FORMATTING=1
export LMCACHE_TRACK_USAGE=false
export LMCACHE_DISABLE_BANNER=1

# ---- the processes

frontend() {
  exec setsid "$python" -m dynamo.frontend \
    --http-host 127.0.0.1 \
    --http-port 8000 \
    --router-mode kv \
    --namespace dynamoctl-default \
    --migration-limit 3
}

decode-0() {
  export DYN_SYSTEM_PORT=20000
  export VLLM_PORT=20001
  export GLOO_SOCKET_IFNAME=lo
  export DYN_LOG=info,tower_http::trace=off
  export DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS=0
  export DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS=5
  export DYNAMOCTL_SHARE_COMPILE_CACHE=1
  export VLLM_NIXL_SIDE_CHANNEL_PORT=20005
  export VLLM_NIXL_SIDE_CHANNEL_HOST=127.0.0.1
  export UCX_NET_DEVICES=lo
  export CUDA_VISIBLE_DEVICES=0
  export CUDA_DEVICE_ORDER=PCI_BUS_ID
  export NCCL_SOCKET_IFNAME=lo
  exec setsid "$python" -m dynamo.vllm \
    --model Qwen/Qwen3-0.6B \
    --served-model-name Qwen/Qwen3-0.6B \
    --disaggregation-mode decode \
    --kv-transfer-config '{"kv_connector":"NixlConnector","kv_role":"kv_both"}' \
    --disable-hybrid-kv-cache-manager \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://kv-events"}'
}

prefill-0() {
  export DYN_SYSTEM_PORT=20006
  export VLLM_PORT=20007
  export GLOO_SOCKET_IFNAME=lo
  export DYN_LOG=info,tower_http::trace=off
  export DYN_GRACEFUL_SHUTDOWN_GRACE_PERIOD_SECS=0
  export DYN_RUNTIME_GRACEFUL_SHUTDOWN_TIMEOUT_SECS=5
  export DYNAMOCTL_END_ENGINE=1
  export DYNAMOCTL_SHARE_COMPILE_CACHE=1
  export DYNAMOCTL_LMCACHE_PACKED_KV=1
  export VLLM_NIXL_SIDE_CHANNEL_PORT=20011
  export VLLM_NIXL_SIDE_CHANNEL_HOST=127.0.0.1
  export UCX_NET_DEVICES=lo
  export LMCACHE_CHUNK_SIZE=256
  export LMCACHE_LOCAL_CPU=True
  export LMCACHE_MAX_LOCAL_CPU_SIZE=20
  export CUDA_VISIBLE_DEVICES=1
  export CUDA_DEVICE_ORDER=PCI_BUS_ID
  export NCCL_SOCKET_IFNAME=lo
  exec setsid "$python" -m dynamo.vllm \
    --model Qwen/Qwen3-0.6B \
    --served-model-name Qwen/Qwen3-0.6B \
    --disaggregation-mode prefill \
    --kv-transfer-config '{"kv_connector":"MultiConnector","kv_role":"kv_both","kv_connector_extra_config":{"connectors":[{"kv_connector":"LMCacheConnectorV1","kv_role":"kv_both"},{"kv_connector":"NixlConnector","kv_role":"kv_both"}]}}' \
    --disable-hybrid-kv-cache-manager \
    --kv-events-config '{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"ipc://kv-events"}'
}

# ---- start, in order

start frontend
await frontend is_200 http://127.0.0.1:8000/live
start decode-0
await decode-0 is_200 http://127.0.0.1:20000/health
start prefill-0
await prefill-0 is_200 http://127.0.0.1:20006/health
await "$model" says "$endpoint/v1/models/Qwen/Qwen3-0.6B/ready" '"ready": *true'
await 'a completion' get --fail --output /dev/null --max-time 120 \
  --header 'Content-Type: application/json' \
  --data '{"model": "Qwen/Qwen3-0.6B", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}' \
  "$endpoint/v1/completions"
say "serves $model at $endpoint/v1; Ctrl-C ends it"

while all_live; do
  sleep 1 &
  wait $!  # unlike a sleep in the foreground, it ends at a signal
done
