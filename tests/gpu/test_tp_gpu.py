"""`up agg --gpus 0,1 --tp 2`: one worker on two GPUs, LMCache's memory for each of its ranks.

The built-in model's nine heads cannot be shared by two: here it is a Llama's shape with dummy weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psutil
import pytest
from dynamoctl.host import gpus

from tests.e2e.conftest import Cli, chat, counter, free_port, wait_for
from tests.gpu.conftest import IN_PROCESS, on_gpus, open_sockets, visible

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("gpu"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(len(visible()) < 2, reason="needs two GPUs"),
]

LONG = "The sea is wide and the sky is blue, said the sailor to his cat. " * 70
LMCACHE_GIB = 8
SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture
def shape(tmp_path: Path, cli: Cli, model: Path) -> Path:
    """A model folder: the built-in model's tokenizer and this shape."""
    plan = cli("up", "agg", "--model", "smollm2-135m-instruct", "--dry-run", "--json").json
    folder = tmp_path / "shape"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(plan["model_path"]) / name, folder)
    (folder / "config.json").write_text(json.dumps(SHAPE))
    return folder


def test_two_ranks_answer_and_lmcache_has_its_size_once_or_in_each(cli: Cli, shape: Path) -> None:
    port, first, second = free_port(), *visible()[:2]
    before, memory = gpus.memory_used(), psutil.virtual_memory()
    taken = memory.total - memory.available
    up = cli(
        "up", "agg", "--gpus", "0,1", "--tp", "2", "--model", str(shape), "--port", str(port),
        "--lmcache-cpu-gb", str(LMCACHE_GIB),
        "--", "--load-format", "dummy", "--enforce-eager", "--gpu-memory-utilization", "0.3",
        "--max-model-len", "2048", "--num-gpu-blocks-override", "129", patience_s=800,
    )  # fmt: skip
    print(up.err)
    assert up.code == 0, up.err
    print(open_sockets(cli))
    assert on_gpus(cli) == {"worker-0": {first, second}}

    hits = "vllm:external_prefix_cache_hits_total"
    system = cli.units()["worker-0"]["ports"]["system"]
    was = counter(system, hits)
    endpoint = f"http://127.0.0.1:{port}"
    chat(endpoint, shape.name, LONG, max_tokens=4)
    for word in ("river", "forest"):
        chat(endpoint, shape.name, LONG.replace("sea", word), max_tokens=4)
    chat(endpoint, shape.name, LONG, max_tokens=4)
    print(f"{hits}: {was} -> {counter(system, hits)}")
    assert counter(system, hits) - was >= 512

    memory = psutil.virtual_memory()
    grown = (memory.total - memory.available - taken) / 2**30
    print(f"the host's memory in use has grown by {grown:.1f} GiB")
    assert grown >= (2 if IN_PROCESS else 1) * LMCACHE_GIB  # taken at the start, in process by each rank

    assert cli("down").code == 0
    wait_for(lambda: all(gpus.memory_used()[i] <= before[i] + 64 for i in (first, second)), 30)
    print(f"MiB in use before: {before}, after: {gpus.memory_used()}")
