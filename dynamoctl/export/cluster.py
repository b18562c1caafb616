"""A cluster as a plan sees it: a host that is not there, and what a manifest must be told besides.

GPUs, memory, ports and folders of the machine that exports mean nothing in a cluster. So the plan is made for
an imagined host with as many GPUs as are asked for, and what only makes sense on one machine is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import SpecError
from dynamoctl.export import dgd_rules
from dynamoctl.facts import Gpu, HostFacts, ModelFacts, folder_name
from dynamoctl.lmcache import remote_stores
from dynamoctl.planner.rules import RULES
from dynamoctl.planner.secrets import HIDDEN, is_secret_name, redact
from dynamoctl.tested_versions import ON_GPUS, SETS

# Dynamo's own. It has not dynamoctl's vLLM plugin, without which LMCache in process gives back wrong values.
IMAGE = "nvcr.io/nvidia/ai-dynamo/vllm-runtime"
# So there the user's own is wanted. Nothing answers below `.example` (RFC 6761): pods wait, and say why.
PLACEHOLDER = "registry.example/dynamo-vllm-lmcache-dynamoctl"

# The environment that the operator or the pod decides: what the rules reserve, and what no rule of ours sets.
_RESERVED = frozenset(rule.sets for rule in RULES if rule.in_pod.reserved)
_OPERATORS = re.compile(
    r"DYN_(COMPONENT|PARENT_DGD_K8S_\w+|SYSTEM_\w+|HTTP_PORT|NAMESPACE_PREFIX|HEALTH_CHECK_ENABLED)"
    r"|DYNAMO_PORT|POD_(NAME|NAMESPACE|UID)|NATS_SERVER"
)

_ROOM_GIB = 2.0**20  # no default is smaller than it would be on a large host

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"  # RFC 1123, as namespaces are named
_NAME = rf"{_LABEL}(\.{_LABEL})*"  # as Secrets and volume claims are
_PART = r"[a-z0-9]+((\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"([A-Za-z0-9.-]+(:[0-9]+)?/)?{_PART}(/{_PART})*"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(?P<digest>@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
# Where the hub's models are looked for: huggingface-hub==1.33.0:huggingface_hub/constants.py.
_HUB_FOLDERS = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Cluster:
    """What a manifest needs beside the plan; checked when it is made.

    Attributes:
        image: of every pod; None: Dynamo's own, where that will do, else a placeholder.
        runtime_version: the image's version of Dynamo, where its tag does not say it.
        namespace: where the resources go; None: where kubectl is pointed at.
        secrets: names of Secrets, whose keys become environment variables of every pod.
        pull_secrets: names of Secrets with which images are pulled.
        pvc: the name of a claim of a volume that holds models, or will hold those of the hub.
        mount: where that volume is in every pod.
        shm: the size of /dev/shm in a worker's pod.
        cache_image: of LMCache's server (mp); None: what its operator takes.
    """

    image: str | None = None
    runtime_version: str | None = None
    namespace: str | None = None
    secrets: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    pvc: str | None = None
    mount: str = "/models"
    shm: str = "8Gi"
    cache_image: str | None = None

    def __post_init__(self) -> None:
        if self.image is not None:
            self._check_image("--image", self.image)
        if self.cache_image is not None:
            self._check_image("--lmcache-image", self.cache_image)
            if "@" in self.cache_image:
                raise SpecError(
                    f"--lmcache-image: {self.cache_image} has a digest, and LMCache's operator takes none",
                    "name it by a tag, as in lmcache/standalone:v0.5.3",
                )
        if self.runtime_version is not None and not dgd_rules.RUNTIME_VERSION.fullmatch(self.runtime_version):
            raise SpecError(
                f"--runtime-version: '{self.runtime_version}' is not a version of the form MAJOR.MINOR.PATCH",
                f"write it as in {ON_GPUS['ai-dynamo']}",
            )
        if self.namespace is not None and not re.fullmatch(_LABEL, self.namespace):
            raise SpecError(
                f"--namespace: '{self.namespace}' cannot be the name of a namespace",
                "it has at most 63 lower-case letters, digits and inner hyphens",
            )
        for flag, names in (
            ("--secret", self.secrets),
            ("--pull-secret", self.pull_secrets),
            ("--pvc", (self.pvc,) if self.pvc is not None else ()),
        ):
            for name in names:
                self._check_name(flag, name)
        if not self.mount.startswith("/") or ":" in self.mount or ".." in self.mount.split("/"):
            raise SpecError(
                f"--pvc-path: '{self.mount}' is not an absolute path in a pod", "write it as in /models"
            )
        if self.mount == "/":
            raise SpecError("--pvc-path: a volume at / would hide the whole image", "write it as in /models")
        if not dgd_rules.QUANTITY.fullmatch(self.shm):
            raise SpecError(
                f"--shm: '{self.shm}' is not a Kubernetes quantity",
                "write it as in 16Gi; Kubernetes does not accept GB or GiB",
            )

    def _check_image(self, flag: str, image: str) -> None:
        found = _IMAGE.fullmatch(image)
        if not found:
            raise SpecError(
                f"{flag}: '{image}' is not an image name",
                f"write it as in {PLACEHOLDER}:{ON_GPUS['ai-dynamo']}, in lower case",
            )
        tag, digest = found["tag"] or "", found["digest"]
        known = not digest and dgd_rules.VERSION_TAG.fullmatch(tag)
        if flag == "--image" and not known and self.runtime_version is None:
            what = "a digest" if digest else f"the tag '{tag}'" if tag else "no tag"
            raise SpecError(
                f"--image: {what} says no version, and the operator must know that of Dynamo in it",
                f"add --runtime-version, as in --runtime-version {ON_GPUS['ai-dynamo']}",
            )

    @staticmethod
    def _check_name(flag: str, name: str) -> None:
        if "=" in name:
            raise SpecError(
                f"{flag}: a secret's value does not belong into a manifest, or on a command line",
                "put it into a Secret of the cluster, and name that Secret here",
            )
        if len(name) > 253 or not re.fullmatch(_NAME, name):
            raise SpecError(
                f"{flag}: '{name}' cannot be the name of such an object",
                "it has lower-case letters, digits, and inner hyphens and dots",
            )

    @property
    def versions(self) -> Mapping[str, str]:
        """The set in the image, by its Dynamo; if there is none, the newest that was run on GPUs."""
        tag = "" if self.image is None or "@" in self.image else self.image.rpartition(":")[2]
        named = self.runtime_version or tag.removeprefix("v").partition("-")[0]
        return next((one.versions for one in SETS if one.versions["ai-dynamo"] == named), ON_GPUS)

    def image_for(self, needs_plugin: bool) -> str:
        """The image of the pods, if with LMCache in process it must have dynamoctl's plugin."""
        return self.image or f"{PLACEHOLDER if needs_plugin else IMAGE}:{self.versions['ai-dynamo']}"


def model(spec: DeploymentSpec, cluster: Cluster, default: str) -> ModelFacts:
    """A model as the pods find it: a hub id, or a folder on the volume.

    Args:
        default: the hub id, if no path is named.

    Raises:
        SpecError: it is something of this machine.
    """
    name = spec.model or default
    if name.startswith("/"):
        place = PurePosixPath(name)
        if cluster.pvc is None:
            raise SpecError(
                f"model: {name} is a folder, and a pod has none of this machine's",
                "name a hub id, or the claim of a volume that holds it, as in --pvc models",
            )
        if (
            not place.is_relative_to(cluster.mount)
            or ".." in place.parts
            or place == PurePosixPath(cluster.mount)
        ):
            raise SpecError(
                f"model: {name} is not below {cluster.mount}, where the volume of --pvc is mounted",
                "name the folder as the pods see it, or say with --pvc-path where they mount the volume",
            )
        return ModelFacts(str(place), spec.served_model_name or folder_name(place))
    if not _HUB_ID.fullmatch(name):
        raise SpecError(
            f"model: {name} is on this machine alone, and pods cannot have it",
            f"name a hub id, as in {default}, or a folder on a volume: --pvc models --model /models/llama",
        )
    _check_hub_folders(spec.env, cluster)
    return ModelFacts(name, spec.served_model_name or name)


def _check_hub_folders(env: Mapping[str, str], cluster: Cluster) -> None:
    """With a volume for the hub's models, that is where the pods look for them."""
    for name in _HUB_FOLDERS:
        folder = env.get(name)
        if cluster.pvc is None or folder is None or PurePosixPath(folder).is_relative_to(cluster.mount):
            continue
        raise SpecError(
            f"env: {name} is {folder}, but the volume of --pvc is mounted at {cluster.mount}",
            f"leave {name} out: the pods then get HF_HOME={cluster.mount}; or name a folder of the volume, or"
            " say with --pvc-path where they mount it",
        )


def host(spec: DeploymentSpec, cluster: Cluster) -> HostFacts:
    """A host with as many GPUs as the workers take, the image's versions, and room for everything."""
    return HostFacts(
        cores=(0,),
        memory_total_gib=_ROOM_GIB,
        memory_available_gib=_ROOM_GIB,
        gpus=tuple(Gpu(index, f"GPU-{index}", "", 0) for index in range(spec.ranks)),
        visible_gpus=None,
        free_ports=tuple(range(20000, 32768)),
        python="python3",
        home="/run/dynamoctl",
        versions=cluster.versions,
    )


def require_portable(spec: DeploymentSpec) -> DeploymentSpec:
    """The same deployment without what is of one machine only.

    Raises:
        SpecError: it cannot be had in a cluster, or a secret would stand in the manifest.
    """
    if spec.engine == "mocker":
        raise SpecError(
            "engine: the mocker is for trying dynamoctl on one machine", "take --engine vllm in a cluster"
        )
    if spec.device == "cpu":
        raise SpecError(
            "device: the images of Dynamo have vLLM for GPUs, and a manifest is for them",
            "leave --device cpu out; this machine needs no GPU for an export",
        )
    if len(set(spec.gpus)) < len(spec.gpus):
        raise SpecError(
            "gpus: workers cannot share a GPU in a cluster: a pod has its GPUs alone",
            "leave --gpus out; the number follows from the workers and --tp",
        )
    if spec.discovery != "file":
        raise SpecError(
            "discovery: the operator has its own, and spreads the pods over its hosts",
            "leave --discovery, --roles and --advertise out, and export the whole deployment",
        )
    if spec.lmcache.enabled:
        _check_cache(spec)
    _check_environment(spec.env)
    _check_environment(spec.lmcache.env)
    for words in (spec.engine_args, spec.decode_args, spec.prefill_args):
        if redact(words) != list(words):
            raise SpecError(
                "engine arguments: they contain a password, which does not belong in a manifest",
                "give it by a Secret's key, with --secret NAME",
            )
    return spec.model_copy(update={"gpus": (), "device": "cuda"})


def _check_cache(spec: DeploymentSpec) -> None:
    cache = spec.lmcache
    if cache.cpu_gb == "auto":
        raise SpecError(
            "lmcache.cpu_gb: auto is measured on this machine, which is not where it will run",
            "say a size, as in --lmcache-cpu-gb 20",
        )
    if cache.gds:
        raise SpecError(
            "lmcache.gds: a pod does not get a disk that its GPUs reach directly by a manifest of ours",
            "take --lmcache-disk, or add the device to the manifest by hand",
        )
    if cache.l2:
        raise SpecError(
            "lmcache.l2: LMCache's operator has such adapters in a form of its own",
            "leave them out, and write spec.l2Backend into the LMCacheEngine by hand",
        )
    if cache.mode == "mp" and cache.disk:
        raise SpecError(
            "lmcache.disk: the cache server of a node belongs to LMCache's operator, and has no disk from us",
            "leave it out, or take --lmcache-mode inproc",
        )
    if cache.remote:
        _check_store(remote_stores.parse(cache.remote), cache.mode == "mp")


def _check_store(store: remote_stores.Store, server: bool) -> None:
    if store.password:
        raise SpecError(
            "lmcache.remote: the password in the URL would stand in the manifest",
            "leave the user and password out of the URL, and name a Secret with them in the LMCacheEngine:"
            " l2Backend.resp.authSecretRef"
            if server
            else "put the whole URL into a Secret as LMCACHE_REMOTE_URL, name that with --secret NAME,"
            " and leave lmcache.remote out",
        )
    if store.kind.local or any(
        host in ("localhost", "::1") or host.startswith("127.") for host, _ in store.addresses
    ):
        raise SpecError(
            f"lmcache.remote: {store.url} is on this machine, and a pod would look for it in itself",
            "name a host that the pods can resolve, as in redis://redis.cache.svc:6379",
        )
    if server and store.kind.adapter != "resp":
        raise SpecError(
            f"lmcache.remote: LMCache's operator takes a Redis, and {store.scheme}:// in another form",
            "name a redis:// URL, or take --lmcache-mode inproc",
        )


def _check_environment(env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if name in _RESERVED or _OPERATORS.fullmatch(name):
            raise SpecError(
                f"env: {name} is the operator's to set, or follows from the pod",
                "take it out of [env] for an export",
            )
        redacted = redact(value, name)
        if value and (redacted == HIDDEN or is_secret_name(name) or redacted != value):
            raise SpecError(
                f"env: {name} is a secret, which does not belong in a manifest",
                f"put it into a Secret of the cluster under this key, and name that: --secret NAME;"
                f" take {name} out of [env]",
            )
