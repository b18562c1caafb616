"""Engine arguments that users cannot give: the rest of the plan depends on them, or they never work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.humanize import nearest
from dynamoctl.planner import engine_options, option_tables, secrets
from dynamoctl.planner.engine_options import CONFIG, Given
from dynamoctl.tested_versions import engine_versions


@dataclass(frozen=True)
class _Owned:
    """Why users cannot give an option.

    Attributes:
        what: what it does, behind its name and value.
        hint: how to say what is wanted.
        unless: values with which it changes nothing.
        needs: a word that its value must have among those between its commas.
        negated: whether it is the negation of the flag that users cannot give.
    """

    what: str
    hint: str
    unless: tuple[str, ...] = ()
    needs: str = ""
    negated: bool = False

    def refuses(self, given: Given) -> bool:
        """Whether it applies to an option as it is given."""
        value = " ".join(given.values).strip()
        if self.needs and self.needs in (one.strip().lower() for one in value.split(",")):
            return False
        return given.is_negated == self.negated and value not in self.unless


def _decided(hint: str) -> _Owned:
    return _Owned("is decided by the plan", hint)


def _shared(variable: str) -> _Owned:
    """What the frontend and the workers must have alike."""
    return _Owned(
        "is for this worker alone, and the frontend could not reach it",
        f"set {variable} in [env], for all units",
    )


_PRINTS = _Owned("makes a worker print something and end", "run `python -m dynamo.vllm --help` instead")
_ENDPOINT = "workers are found in the deployment's own namespace: give --name before the --"

_EVERY_ENGINE: Mapping[str, _Owned] = {
    "--disaggregation-mode": _decided("`up agg` and `up disagg` give each worker its own"),
    "--endpoint": _decided(_ENDPOINT),
    "--discovery-backend": _decided("give --discovery before the --"),
    "--request-plane": _shared("DYN_REQUEST_PLANE"),
    "--response-plane": _shared("DYN_RESPONSE_PLANE"),
    "--event-plane": _shared("DYN_EVENT_PLANE"),
    "--help": _PRINTS,
    "--version": _PRINTS,
}

_MORE_GPUS = _Owned(
    "takes more GPUs than the plan gives a worker",
    "spread a model with --tp, and add workers for more throughput (--workers, or --decode and --prefill)",
)
_OTHER_HOSTS = _Owned(
    "spreads a worker over hosts or GPUs that the plan does not know",
    "each host runs whole workers of its own: see --roles and --discovery etcd",
)
# `up` has a deployment verified by a text completion.
_NO_TEXT = _Owned(
    "makes a worker that answers no text completion, by which `up` verifies a deployment",
    "take it out: dynamoctl serves models that generate text",
)
_TLS = (
    "--tcp-tls-cert-path", "--tcp-tls-key-path", "--tcp-tls-ca-cert-path", "--tcp-tls-insecure",
    "--tcp-tls-server-name", "--tcp-tls-handshake-timeout", "--tcp-tls-client-cert-path",
    "--tcp-tls-client-key-path", "--tcp-tls-client-ca-cert-path", "--nats-tls-ca-cert-path",
    "--nats-tls-insecure", "--nats-tls-client-cert-path", "--nats-tls-client-key-path",
)  # fmt: skip

_OF_VLLM: Mapping[str, _Owned] = {
    "--model": _decided("name it before the --, as in: dynamoctl up agg --model NAME"),
    "--served-model-name": _decided("give --served-model-name before the --"),
    "--tensor-parallel-size": _decided("give --tp before the --"),
    "--device-ids": _decided("give --gpus before the --"),
    "--kv-transfer-config": _decided("it follows from the mode and from --lmcache-mode or --no-lmcache"),
    "--kv-events-config": _decided("--router-mode kv, before the --, turns KV events on"),
    "--connector": _decided("Dynamo no longer takes it; it follows from the mode and from LMCache's flags"),
    "--namespace": _decided(_ENDPOINT),
    # vllm==0.31.0:vllm/config/vllm.py:_post_init_kv_transfer_config
    "--kv-offloading-size": _Owned(
        "puts vLLM's own connector in the place of those of LMCache and NIXL, which the plan decides",
        "LMCache keeps KV blocks in CPU memory: give --lmcache-cpu-gb before the --",
    ),
    CONFIG: _Owned(
        "brings arguments from a file, which the plan does not see",
        "write them after the --, or as engine_args into dynamoctl.toml",
    ),
    **dict.fromkeys(_TLS, _shared("the variables DYN_TCP_TLS_* and NATS_TLS_*")),
    **dict.fromkeys(
        ("--data-parallel-size", "--data-parallel-size-local", "--pipeline-parallel-size",
         "--prefill-context-parallel-size"),
        replace(_MORE_GPUS, unless=("1",)),
    ),
    **dict.fromkeys(
        ("--data-parallel-hybrid-lb", "--data-parallel-external-lb", "--data-parallel-multi-port-external-lb",
         "--enable-elastic-ep"),
        _MORE_GPUS,
    ),
    **dict.fromkeys(
        ("--data-parallel-rank", "--data-parallel-start-rank", "--node-rank"),
        replace(_OTHER_HOSTS, unless=("0",)),
    ),
    "--nnodes": replace(_OTHER_HOSTS, unless=("1",)),
    "--distributed-executor-backend": replace(_OTHER_HOSTS, unless=("mp", "uni")),
    "--headless": _OTHER_HOSTS,
    **dict.fromkeys(
        ("--embedding-worker", "--classify-worker", "--realtime", "--use-vllm-tokenizer",
         "--route-to-encoder", "--gms-shadow-mode", "--mm-encoder-only"),
        _NO_TEXT,
    ),
    "--endpoint-types": replace(_NO_TEXT, needs="completions", hint="have completions among them"),
    "--runner": replace(_NO_TEXT, unless=("auto", "generate")),
    "--convert": replace(_NO_TEXT, unless=("auto", "none")),
}  # fmt: skip

# Decode and prefill have it alike: rule `no-hybrid-cache`.
_OF_DISAGG: Mapping[str, _Owned] = {
    "--disable-hybrid-kv-cache-manager": replace(
        _decided("decode and prefill must have the same cache manager, and LMCache's needs this one"),
        negated=True,
    ),
}

_OF_MOCKER: Mapping[str, _Owned] = {
    "--model-path": _decided("name the model before the --, as in: dynamoctl up agg --model NAME"),
    "--model-name": _decided("give --served-model-name before the --"),
    "--num-workers": _decided("give --workers, or --decode and --prefill, before the --"),
    **dict.fromkeys(
        ("--is-prefill-worker", "--is-decode-worker"), _EVERY_ENGINE["--disaggregation-mode"]
    ),
}  # fmt: skip

_FOR_FRONTEND = _Owned(
    "is for the frontend, which routes the requests",
    "give --router-mode before the --; set what else a router takes in [env], as in DYN_ROUTER_TEMPERATURE",
)

_TOOLS = "Dynamo's frontend parses tool calls: give --dyn-tool-call-parser NAME instead"
_PROXY = "put a proxy that does it in front of the frontend"
_LOG = "set DYN_LOG in [env], as in DYN_LOG = 'warn'"
# What Dynamo has in the place of options of `vllm serve`.
_INSTEAD: Mapping[str, str] = {
    "--enable-auto-tool-choice": _TOOLS,
    "--tool-call-parser": _TOOLS,
    "--chat-template": "give --custom-jinja-template FILE instead",
    "--default-chat-template-kwargs": "for a model that thinks, give --dyn-default-thinking-mode instead",
    "--host": "the frontend listens for clients: give --host before the --",
    "--port": "the frontend listens for clients: give --port before the --",
    "--api-server-count": "there is one frontend: for more throughput, add workers",
    "--lora-modules": "Dynamo loads adapters while it runs: give --enable-lora, set DYN_LORA_ENABLED = 'true'"
    " in [env], and POST each to /v1/loras at the status port of every worker",
    **dict.fromkeys(
        ("--api-key", "--uds", "--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--ssl-cert-reqs",
         "--ssl-ciphers", "--enable-ssl-refresh", "--allowed-origins", "--allowed-methods",
         "--allowed-headers", "--allow-credentials", "--root-path", "--middleware"),
        _PROXY,
    ),
    **dict.fromkeys(
        ("--uvicorn-log-level", "--disable-uvicorn-access-log", "--disable-access-log-for-endpoints"), _LOG
    ),
}  # fmt: skip


def check(spec: DeploymentSpec, versions: Mapping[str, str], device: str) -> None:
    """The user's own arguments win over the planner's, except for those that the rest of the plan depends on.

    Args:
        versions: distribution -> version, of what is installed.

    Raises:
        SpecError: an argument that the plan decides or that the engine does not take; a token or password,
            which every user of the machine could read.
    """
    installed = engine_versions(versions, device)
    is_known_version = all(installed.get(name) == it for name, it in option_tables.VERSIONS.items())
    for words in dict.fromkeys(spec.arguments_of(role) for role in ("agg", "decode", "prefill")):
        parsed = engine_options.parse(words, spec.engine)
        for given in parsed.of_server:
            raise SpecError(
                f"engine arguments: {given.word} is for `vllm serve`; Dynamo's worker does not have it",
                _INSTEAD.get(given.option, "Dynamo's frontend answers the clients: take it out"),
            )
        _check_secrets(words, parsed.given)
        for given in parsed.given:
            _check_owned(given, spec)
        if parsed.unknown and is_known_version:
            _refuse_unknown(parsed.unknown[0], spec)


def _check_owned(given: Given, spec: DeploymentSpec) -> None:
    tables = [_EVERY_ENGINE, _OF_VLLM if spec.engine == "vllm" else _OF_MOCKER]
    if spec.mode == "disagg":
        tables.append(_OF_DISAGG)
    rules = [table[given.option] for table in tables if given.option in table]
    if given.option in engine_options.routers():
        rules.append(_FOR_FRONTEND)
    for rule in rules:
        if rule.refuses(given):
            raise SpecError(f"engine arguments: {given.word} {rule.what}", rule.hint)


def _check_secrets(words: Sequence[str], options: Iterable[Given]) -> None:
    named = [(one.word, bool(one.values)) for one in options]
    for word, after in pairwise((*words, "")):  # what is below a key of a JSON value, too
        name, equals, _ = word.partition("=")
        named.append((name, bool(equals) or bool(after and not after.startswith("-"))))
    for name, has_value in named:
        if has_value and name.startswith("--") and secrets.is_secret_name(name.replace("-", "_")):
            raise SpecError(
                f"engine arguments: the value of {name} would be in the worker's command line, for everybody"
                " to read",
                "set it in the environment or in [env], as HF_TOKEN",
            )


def _refuse_unknown(word: str, spec: DeploymentSpec) -> None:
    name = word.partition("=")[0] if word.startswith("-") else str(secrets.redact(word))
    program = f"dynamo.{spec.engine}"
    hint = nearest(name, engine_options.names(spec.engine))
    if len(words := name.split()) > 1:
        hint = f"give each word by itself, as in {', '.join(map(repr, words))}"
    raise SpecError(
        f"engine arguments: {program} does not take '{name}'",
        hint or f"`python -m {program} --help` lists what it takes",
    )
