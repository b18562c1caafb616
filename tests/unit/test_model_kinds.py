"""Models that need something of a plan: layers with a state, no text, adapters, a short context."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from dynamoctl.errors import SpecError
from dynamoctl.facts import ModelFacts
from dynamoctl.planner import architectures, model_kinds

from tests.unit.hosts import plan

ROOT = Path(__file__).resolve().parents[2]


def model(architecture: str, **config: Any) -> ModelFacts:
    return ModelFacts("/m", "m", folder="/m", config={"architectures": [architecture], **config})


# A multiple of the 544 tokens that vLLM took as a block for a small model of this kind.
LONG_CHUNKS = {"mode": "mp", "chunk_size": 1088}
HYBRID = model("Qwen3NextForCausalLM", layer_types=["linear_attention", "full_attention"])
PLAIN = model("Qwen3ForCausalLM")


# ---- the table ------------------------------------------------------------------------------


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that writes the table."""
    spec = importlib.util.spec_from_file_location("architectures", ROOT / "docs" / "architectures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.packages
def test_the_table_is_that_of_the_installed_vllm(made: Any) -> None:
    if made.version() not in made.FILE.read_text(encoding="utf-8"):
        pytest.skip("another version is installed")
    assert made.FILE.read_text(encoding="utf-8") == made.text(made.package(), made.version())


def test_the_table_follows_classes_across_files(made: Any, tmp_path: Path) -> None:
    own = tmp_path / "model_executor" / "models"
    (tmp_path / "models" / "new").mkdir(parents=True)
    (tmp_path / "config").mkdir()
    own.mkdir(parents=True)
    tables = {
        "_TEXT_GENERATION_MODELS": '{"A": ("a", "A"), "B": ("b", "B"), "N": ("vllm.models.new", "N"),'
        ' "OddModel": ("o", "Odd")}',
        "_EMBEDDING_MODELS": '{"E": ("e", "E"), **{k: v for k, v in _TEXT_GENERATION_MODELS.items()}}',
    }
    for name in (*made._GENERATES, *made._POOLS):
        tables.setdefault(name, "{}")
    (own / "registry.py").write_text("".join(f"{name} = {table}\n" for name, table in tables.items()))
    (own / "a.py").write_text("class A(Module, IsHybrid): ...\nclass Other(Module): ...\n")
    (own / "b.py").write_text("from .a import A\nclass B(A): ...\nclass E(Other): ...\n")
    (tmp_path / "models" / "new" / "n.py").write_text("class N(\n    Module,\n    IsHybrid,\n): ...\n")
    (tmp_path / "config" / "model.py").write_text(
        "_SUFFIX_TO_DEFAULTS: list[tuple[str, tuple[A, B]]] = [\n"
        '    ("LM", ("generate", "none")),\n    ("Model", ("pooling", "embed")),\n]\n'
    )
    found = made.tables(tmp_path)
    assert (found.hybrid, found.pooling) == ({"A", "B", "N"}, {"E"})
    assert (found.generating, found.endings) == ({"OddModel"}, (("LM", False), ("Model", True)))


# ---- layers with a state --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "hybrid"),
    [
        (HYBRID, True),
        (model("NemotronHForCausalLM"), True),
        (model("GraniteMoeHybridForCausalLM", layer_types=["attention", "attention"]), False),
        (PLAIN, False),
        (model("GptOssForCausalLM", layer_types=["sliding_attention", "full_attention"]), False),
        (ModelFacts("org/m", "org/m"), False),
        (ModelFacts("/m", "m", config={"architectures": "Qwen3NextForCausalLM"}), False),
    ],
)
def test_a_model_is_hybrid_as_vllm_says(one: ModelFacts, hybrid: bool) -> None:
    assert model_kinds.is_hybrid(one) is hybrid


@pytest.mark.parametrize("mode", ["agg", "disagg"])
def test_lmcache_in_process_cannot_keep_layers_with_a_state(mode: str) -> None:
    with pytest.raises(SpecError, match="layers with a state") as caught:
        plan(2, mode=mode, model_facts=HYBRID)
    assert "--no-lmcache" in caught.value.hint


def test_lmcache_has_chunks_of_whole_blocks_and_a_state_makes_blocks_longer() -> None:
    for mode in ("agg", "disagg"):
        with pytest.raises(SpecError, match="longer blocks than LMCache's chunks of 256 tokens") as caught:
            plan(2, mode=mode, model_facts=HYBRID, lmcache={"mode": "mp"})
        assert "--lmcache-chunk-size" in caught.value.hint
        assert plan(2, mode=mode, model_facts=HYBRID, lmcache=LONG_CHUNKS).workers


@pytest.mark.parametrize("lmcache", [{"enabled": False}, LONG_CHUNKS])
def test_without_it_vllm_keeps_the_manager_that_they_need(lmcache: dict[str, Any]) -> None:
    flag = "--disable-hybrid-kv-cache-manager"
    for one, given in ((HYBRID, False), (PLAIN, True)):
        made = plan(2, mode="disagg", model_facts=one, lmcache=lmcache)
        assert {flag in unit.argv for unit in made.workers} == {given}


# ---- models that generate no text -----------------------------------------------------------


@pytest.mark.parametrize(
    "architecture",
    ["BertModel", "XLMRobertaForSequenceClassification", "Qwen3ForSequenceClassification", "UnheardOfModel"],
)
def test_a_model_that_generates_no_text_never_answers_a_completion(architecture: str) -> None:
    with pytest.raises(SpecError, match="embeddings, scores or classes"):
        plan(1, model_facts=model(architecture))
    assert plan(1, model_facts=model(architecture), engine="mocker").workers
    assert plan(1, model_facts=model(architecture), engine_args=("--runner", "generate")).workers


@pytest.mark.parametrize(
    "name", [*sorted(architectures.GENERATING), "LlamaForCausalLM", "GPT2LMHeadModel", "Odd"]
)
def test_a_model_that_generates_text_is_served(name: str) -> None:
    assert plan(1, model_facts=model(name)).workers


@pytest.mark.parametrize("words", [("--runner", "pooling"), ("--embedding-worker",), ("--classify-worker",)])
def test_a_worker_that_is_told_to_generate_no_text(words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="answers no text completion"):
        plan(1, engine_args=words)


def test_a_model_with_an_encoder_has_no_kv_connector() -> None:
    with pytest.raises(SpecError, match="an encoder and a decoder"):
        plan(1, model_facts=model("WhisperForConditionalGeneration", is_encoder_decoder=True))


# ---- on a CPU -------------------------------------------------------------------------------

LATENT = model("DeepseekV2ForCausalLM", kv_lora_rank=512, qk_rope_head_dim=64, num_hidden_layers=2)


@pytest.mark.parametrize(("one", "why"), [(HYBRID, "layers with a state"), (LATENT, "latent attention")])
def test_what_lmcache_cannot_give_back_on_a_cpu_is_refused(one: ModelFacts, why: str) -> None:
    with pytest.raises(SpecError, match=f"lmcache: .* {why}"):
        plan(model_facts=one)
    assert plan(model_facts=one, lmcache={"enabled": False}).workers
    assert plan(2, model_facts=one, lmcache=LONG_CHUNKS).workers


@pytest.mark.parametrize(("one", "why"), [(HYBRID, "layers with a state"), (LATENT, "latent attention")])
def test_what_does_not_arrive_whole_at_a_decode_worker_on_a_cpu_is_refused(one: ModelFacts, why: str) -> None:
    with pytest.raises(SpecError, match=f"mode: .* {why}"):
        plan(mode="disagg", model_facts=one, lmcache={"enabled": False})
    assert plan(2, mode="disagg", model_facts=one, lmcache=LONG_CHUNKS).workers
    assert plan(mode="disagg", model_facts=PLAIN).workers


# ---- adapters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"engine_args": ("--enable-lora",)}, True),
        ({"engine_args": ("--enable_lora", "--max-loras", "2")}, True),
        ({"mode": "disagg", "prefill_args": ("--enable-lora",)}, True),
        ({"engine_args": ("--enable-lora",), "lmcache": {"mode": "mp"}}, True),
        ({"engine_args": ("--enable-lora",), "lmcache": {"enabled": False}}, False),
        ({"engine_args": ("--enable-lora", "--no-enable-lora")}, False),
        ({"mode": "disagg", "decode_args": ("--enable-lora",)}, False),
    ],
)
def test_lmcache_would_answer_one_adapter_with_the_cache_of_another(
    fields: dict[str, Any], refused: bool
) -> None:
    if refused:
        with pytest.raises(SpecError, match="tell adapters apart"):
            plan(2, **fields)
    else:
        assert plan(2, **fields).workers


# ---- the profile of a CPU -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words", "context", "batch"),
    [
        ({}, (), "2048", "512"),
        ({"max_position_embeddings": 8192}, (), "2048", "512"),
        ({"n_positions": 1024}, (), "1024", "512"),
        ({"text_config": {"max_position_embeddings": 512}}, (), "512", "512"),
        ({"max_position_embeddings": True, "seq_length": "long"}, (), "2048", "512"),
        ({}, ("--max-num-seqs", "1024"), "2048", "1024"),
        ({}, ("--max_num_seqs=64",), "2048", "512"),
        ({}, ("--max-num-seqs", "1k"), "2048", "512"),
        ({}, ("--no-enable-chunked-prefill",), "2048", None),
    ],
)
def test_the_profile_of_a_cpu_leaves_room_for_the_model_and_the_users_arguments(
    config: dict[str, Any], words: tuple[str, ...], context: str, batch: str | None
) -> None:
    argv = plan(model_facts=model("LlamaForCausalLM", **config), engine_args=words).unit("worker-0").argv
    found = {word: argv[i + 1] for i, word in enumerate(argv) if word.startswith("--max-")}
    assert found["--max-model-len"] == context
    assert found.get("--max-num-batched-tokens") == batch
