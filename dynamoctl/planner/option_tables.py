"""The options of the engine's command lines, by what follows them.

docs/option_tables.py writes this module from the installed packages; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping

# The packages that they were read from.
VERSIONS: Mapping[str, str] = {
    "ai-dynamo": "1.6.1",
    "vllm": "0.31.0",
}

# What is given after an option: kind -> options, each with its other names behind slashes.
Table = Mapping[str, str]

# dynamo.vllm's own.
DYNAMO: Table = {
    "flag": """
        --help/-h --version
    """,
    "value": """
        --namespace --endpoint --kv-state-endpoint --discovery-backend --request-plane --response-plane
        --event-plane --dyn-tool-call-parser --dyn-reasoning-parser --dyn-default-thinking-mode
        --dyn-structural-tag-scope --dyn-structural-tag-schema --custom-jinja-template
        --endpoint-types/--dyn-endpoint-types --dump-config-to --multimodal-embedding-cache-capacity-gb
        --media-output-fs-url --media-output-http-url --health-check-payload --engine-request-limit
        --tcp-tls-cert-path --tcp-tls-key-path --tcp-tls-ca-cert-path --tcp-tls-server-name
        --tcp-tls-handshake-timeout --tcp-tls-client-cert-path --tcp-tls-client-key-path
        --tcp-tls-client-ca-cert-path --nats-tls-ca-cert-path --nats-tls-client-cert-path
        --nats-tls-client-key-path --disaggregation-mode --mm-prompt-template --custom-encoder-class
        --embedding-transfer-mode --embedding-worker-processes --model-express-url --benchmark-mode
        --benchmark-points-file --prefill-max-new-token-samples --prefill-max-kv-read-token-samples
        --decode-max-kv-read-token-samples --decode-max-batch-size-samples --prefix-max-batch-size-samples
        --benchmark-prefill-granularity --benchmark-prefill-kv-read-granularity
        --benchmark-prefill-batch-granularity --benchmark-decode-length-granularity
        --benchmark-decode-batch-granularity --benchmark-warmup-iterations --benchmark-output-path
        --benchmark-timeout --benchmark-max-batch-size
    """,
    "flag or its negation": """
        --fpm-trace --exclude-tools-when-tool-choice-none --dyn-enable-structural-tag
        --multimodal-embedding-cache-publisher --tcp-tls-insecure --nats-tls-insecure --use-vllm-tokenizer
        --route-to-encoder --enable-multimodal --enable-rl --frontend-decoding --embedding-worker
        --embedding-frontend-tokenization --realtime --classify-worker --headless --gms-shadow-mode
        --benchmark-randomize-kda-state --benchmark-hybrid-live-state --benchmark-collect-imbalanced
    """,
    "any values": """
        --connector --output-modalities
    """,
    "optional value": """
        --dyn-structural-tag
    """,
}

# A worker's or mocker's, for the frontend: how requests are to be routed to it.
ROUTER: Table = {
    "value": """
        --router-mode --router-session-affinity-ttl-secs --router-session-affinity-mode
        --active-decode-blocks-threshold --active-prefill-tokens-threshold
        --active-prefill-tokens-threshold-frac --router-kv-overlap-score-credit
        --router-kv-overlap-score-credit-decay --router-kv-overlap-score-weight/--kv-overlap-score-weight
        --router-prefill-load-scale --router-decode-active-request-weight --router-host-cache-hit-weight
        --router-disk-cache-hit-weight --router-temperature --router-tracking-hash
        --router-tracking-key-file --router-tracking-key-id --router-prefill-load-model --router-ttl-secs
        --router-approximate-cache-policy --router-queue-threshold --router-policy-config
        --router-conditional-disagg-config --router-prefill-policy --router-decode-policy
        --router-event-threads --router-queue-policy --shared-cache-multiplier --shared-cache-type
        --router-predicted-ttl-secs
    """,
    "flag or its negation": """
        --load-aware --router-kv-events/--kv-events --router-replica-sync
        --router-track-active-blocks/--track-active-blocks
        --router-track-output-blocks/--track-output-blocks --router-assume-kv-reuse/--assume-kv-reuse
        --router-track-prefill-tokens --router-conditional-disagg --use-remote-indexer
        --enable-session-prefix-index
    """,
}

# The engine's, which dynamo.vllm takes too.
VLLM: Table = {
    "value": """
        --model --runner --convert --tokenizer --tokenizer-mode --dtype --seed --hf-config-path
        --allowed-local-media-path --revision --code-revision --tokenizer-revision --max-model-len
        --quantization/-q --quantization-config --max-logprobs --logprobs-mode --config-format
        --hf-overrides --model-class-overrides --pooler-config --generation-config
        --override-generation-config --model-impl --io-processor-plugin --renderer-num-workers --load-format
        --download-dir --safetensors-load-strategy --safetensors-prefetch-num-threads
        --safetensors-prefetch-block-size --model-loader-extra-config --pt-load-map-location
        --attention-backend --mamba-backend --mamba-ssu-algorithm --mamba-cache-philox-rounds
        --reasoning-parser --reasoning-parser-plugin --distributed-executor-backend
        --pipeline-parallel-size/-pp --master-addr --master-port --nnodes/-n --node-rank/-r
        --distributed-timeout-seconds --cpu-distributed-timeout-seconds --device-ids
        --tensor-parallel-size/-tp --decode-context-parallel-size/-dcp --dcp-comm-backend
        --dcp-kv-cache-interleave-size --cp-kv-cache-interleave-size --prefill-context-parallel-size/-pcp
        --data-parallel-size/-dp --data-parallel-rank/-dpn --data-parallel-start-rank/-dpr
        --data-parallel-size-local/-dpl --data-parallel-address/-dpa --data-parallel-rpc-port/-dpp
        --data-parallel-backend/-dpb --all2all-backend --ubatch-size --elastic-ep-max-dp-size
        --dbo-decode-token-threshold --dp-sync-interval --dbo-prefill-token-threshold --eplb-config
        --expert-placement-strategy --max-parallel-loading-workers --worker-cls --worker-extension-cls
        --fault-tolerance-config --block-size --gpu-memory-utilization/--device-memory-utilization
        --kv-cache-memory-bytes --kv-cache-dtype --num-gpu-blocks-override --prefix-caching-hash-algo
        --prefix-cache-retention-interval --mamba-cache-dtype --mamba-ssm-cache-dtype --mamba-block-size
        --prefix-match-unit --mamba-cache-mode --replayssm-buffer-len --kv-offloading-size
        --kv-offloading-backend --offload-backend --cpu-offload-gb --offload-group-size
        --offload-num-in-group --offload-prefetch-step --limit-mm-per-prompt --media-io-kwargs
        --mm-processor-kwargs --mm-processor-cache-gb --mm-processor-cache-type --mm-hasher-algorithm
        --mm-shm-cache-max-object-size-mb --mm-encoder-tp-mode --mm-encoder-attn-backend
        --mm-encoder-attn-dtype --mm-encoder-fp8-scale-path --mm-encoder-fp8-scale-save-path
        --mm-encoder-fp8-scale-save-margin --video-pruning-rate --video-pruning-method --mm-tensor-ipc
        --mm-processor-device --mm-ipc-gpu-memory-gb --max-loras --max-lora-rank --lora-dtype
        --max-cpu-loras --default-mm-loras --max-lora-cls-labels --logging-config --log-level
        --log-config-file --show-hidden-metrics-for-version --otlp-traces-endpoint
        --per-request-spec-decode-metrics --kv-cache-metrics-sample --jit-monitor-mode
        --max-num-batched-tokens --max-num-scheduled-tokens --max-num-seqs --max-num-active-seqs
        --max-num-queued-reqs --max-num-queued-tokens --long-prefill-token-threshold --scheduling-policy
        --scheduler-cls --watermark --prefill-schedule-interval --stream-interval
        --max-cudagraph-capture-size --ir-op-priority --moe-backend --linear-backend
        --sparse-indexer-topk-backend --speculative-config/-sc --spec-method --spec-model --spec-tokens
        --watermark-config --diffusion-config/-dc --kv-transfer-config --kv-events-config
        --ec-transfer-config --ec-manager-config --compilation-config/-cc --attention-config/-ac
        --engram-config --reasoning-config --kernel-config --additional-config --structured-outputs-config
        --aux-output-config --profiler-config --optimization-level --performance-mode
        --weight-transfer-config --shutdown-timeout --gdn-prefill-backend --kda-prefill-backend
        --kda-decode-backend
    """,
    "flag or its negation": """
        --trust-remote-code --allow-deprecated-quantization --enforce-eager --enable-return-routed-experts
        --return-sampling-mask --use-fp64-gumbel --enable-trace-replay --disable-sliding-window
        --disable-cascade-attn --skip-tokenizer-init --enable-prompt-embeds --enable-sleep-mode
        --enable-cumem-allocator --enable-nccl-comm-suspend --use-tqdm-on-load
        --enable-mamba-cache-stochastic-rounding --numa-bind --dcp-q-replicate
        --data-parallel-hybrid-lb/-dph --data-parallel-external-lb/-dpe --enable-expert-parallel/-ep
        --enable-batch-sharded-sampling --enable-ep-weight-filter --enable-dbo --enable-elastic-ep
        --disable-nccl-for-dp-synchronization --enable-eplb --ray-workers-use-nsight
        --disable-custom-all-reduce --enable-fault-tolerance --enable-prefix-caching
        --kv-sharing-fast-prefill --swa-bounded-replay --enable-mamba-shared-prefix-checkpoint
        --use-replayssm --language-model-only --enable-mm-embeds --mm-encoder-only --interleave-mm-strings
        --skip-mm-profiling --mm-device-do-normalize --enable-lora --enable-tower-connector-lora
        --fully-sharded-loras --specialize-active-lora --enable-mixed-moe-lora-format
        --enable-moe-shared-loras --kv-cache-metrics --cudagraph-metrics --enable-layerwise-nvtx-tracing
        --enable-mfu-metrics --enable-logging-iteration-details --jit-monitor-verbose
        --long-prefill-token-threshold-adaptive --enable-chunked-prefill --disable-chunked-mm-input
        --scheduler-reserve-full-isl --disable-hybrid-kv-cache-manager --async-scheduling
        --enable-flashinfer-autotune --fail-on-environ-validation --enable-log-requests
    """,
    "values": """
        --allowed-media-domains --served-model-name --sleep-preserve-parameter-names --logits-processors
        --ignore-patterns --numa-bind-nodes --numa-bind-cpus --kv-cache-dtype-skip-layers
        --cpu-offload-params --offload-params --lora-target-modules --collect-detailed-traces
        --cudagraph-capture-sizes
    """,
    "optional value": """
        --hf-token
    """,
    "flag": """
        --data-parallel-multi-port-external-lb/-dpm --disable-log-stats --aggregate-engine-logging
    """,
}

# Those of `vllm serve` that dynamo.vllm does not take.
SERVE: Table = {
    "value": """
        --api-server-count/-asc --chat-template --chat-template-content-format
        --default-chat-template-kwargs --response-role --tool-call-parser --tool-parser-plugin
        --tool-strict-level --tool-server --max-log-len --sse-keep-alive-interval --cohere-format
        --anthropic-disabled-thinking-effort --fingerprint-mode --fingerprint-value --host --port
        --data-parallel-supervisor-port --dp-supervisor-probe-interval-s --dp-supervisor-probe-timeout-s
        --dp-supervisor-probe-failure-threshold --uds --uvicorn-log-level --disable-access-log-for-endpoints
        --allowed-origins --allowed-methods --allowed-headers --ssl-keyfile --ssl-certfile --ssl-ca-certs
        --ssl-cert-reqs --ssl-ciphers --root-path --middleware --h11-max-incomplete-event-size
        --h11-max-header-count
    """,
    "flag": """
        --grpc
    """,
    "values": """
        --lora-modules --api-key
    """,
    "flag or its negation": """
        --trust-request-chat-template --trust-request-mm-kwargs --return-tokens-as-token-ids
        --enable-auto-tool-choice --enable-prompt-tokens-details --enable-per-request-metrics
        --enable-server-load-tracking --enable-force-include-usage --enable-tokenizer-info-endpoint
        --enable-log-outputs --enable-log-deltas --cohere-is-reasoning-model --log-error-stack --tokens-only
        --enable-scale-out --disable-uvicorn-access-log --allow-credentials --enable-ssl-refresh
        --enable-request-id-headers --disable-fastapi-docs --enable-offline-docs
        --enable-flash-late-interaction
    """,
}

# dynamo.mocker's own.
MOCKER: Table = {
    "flag": """
        --help/-h --version --enable-prefix-caching --no-enable-prefix-caching --enable-chunked-prefill
        --no-enable-chunked-prefill --ais-perf-model/--aic-perf-model --sglang-generate --is-prefill-worker
        --is-decode-worker
    """,
    "value": """
        --model-path --endpoint --model-name --num-gpu-blocks-override --block-size --max-model-len
        --max-num-seqs --max-num-batched-tokens --preemption-mode --speedup-ratio --decode-speedup-ratio
        --data-parallel-size --startup-time --planner-profile-data --gpu-memory-utilization
        --mem-fraction-static --free-gpu-memory-fraction --ais-system/--aic-system
        --ais-backend/--aic-backend --ais-backend-version/--aic-backend-version --ais-tp-size/--aic-tp-size
        --ais-moe-tp-size/--aic-moe-tp-size --ais-moe-ep-size/--aic-moe-ep-size
        --ais-attention-dp-size/--aic-attention-dp-size --ais-nextn/--aic-nextn
        --ais-nextn-accept-rates/--aic-nextn-accept-rates --ais-mtp-seed/--aic-mtp-seed --num-workers
        --ais-perf-config --reasoning --response-replay-trace-path --engine-type --sglang-schedule-policy
        --sglang-page-size --sglang-max-prefill-tokens --sglang-chunked-prefill-size
        --sglang-clip-max-new-tokens --sglang-schedule-conservativeness --trtllm-capacity-scheduler-policy
        --extra-engine-args --disaggregation-mode --zmq-kv-events-ports --zmq-replay-ports --bootstrap-ports
        --kv-transfer-bandwidth --kv-transfer-timing-mode --kv-cache-dtype --kv-bytes-per-token
        --num-host-blocks --host-offload-d2h-bandwidth-gbps --host-offload-h2d-bandwidth-gbps
        --stagger-delay --discovery-backend --request-plane --response-plane --event-plane
    """,
}
