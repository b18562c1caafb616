"""Model architectures that need something of a plan, written by docs/architectures.py.

Source: vllm==0.31.0:vllm/model_executor/models/registry.py.
"""

from __future__ import annotations

# Layers with a state (mamba, linear attention) beside attention: classes with vLLM's interface IsHybrid.
HYBRID = frozenset(
    {
        "BailingMoeV2_5ForCausalLM",
        "BailingMoeV3ForCausalLM",
        "BailingMoeV3VLForConditionalGeneration",
        "ColBERTLfm2Model",
        "ColQwen3_5",
        "FalconH1ForCausalLM",
        "Glm5NextForCausalLM",
        "Glm5NextForConditionalGeneration",
        "GraniteMoeHybridForCausalLM",
        "InternS2MobiusForConditionalGeneration",
        "InternS2PreviewForConditionalGeneration",
        "JambaForCausalLM",
        "JambaForSequenceClassification",
        "KimiK3ForConditionalGeneration",
        "KimiLinearForCausalLM",
        "Lfm2ForCausalLM",
        "Lfm2MoeForCausalLM",
        "Lfm2VlForConditionalGeneration",
        "MiniCPMV4_6ForConditionalGeneration",
        "NemotronHForCausalLM",
        "NemotronHPuzzleForCausalLM",
        "NemotronH_Nano_Omni_Reasoning_V3",
        "NemotronH_Nano_VL_V2",
        "NemotronH_Omni_Reasoning_V3",
        "NemotronH_Super_Omni_Reasoning_V3",
        "OlmoHybridForCausalLM",
        "Qwen3NextForCausalLM",
        "Qwen3_5ForCausalLM",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForCausalLM",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen4ExpForCausalLM",
        "Qwen4ExpForConditionalGeneration",
        "Zamba2ForCausalLM",
    }
)

# They compute embeddings, scores or classes, and generate no text.
POOLING = frozenset(
    {
        "BertForMaskedLM",
        "BertForSequenceClassification",
        "BertForTokenClassification",
        "BertModel",
        "BertSpladeSparseEmbeddingModel",
        "BgeM3EmbeddingModel",
        "CLIPModel",
        "ColBERTJinaRobertaModel",
        "ColBERTLfm2Model",
        "ColBERTModernBertModel",
        "ColModernVBertForRetrieval",
        "ColPaliForRetrieval",
        "ColQwen3",
        "ColQwen3_5",
        "DeepseekV3BidirectionalModel",
        "GPT2ForSequenceClassification",
        "Gemma2Model",
        "Gemma3TextModel",
        "GteModel",
        "GteNewForSequenceClassification",
        "GteNewModel",
        "HF_ColBERT",
        "InternLM2ForRewardModel",
        "JambaForSequenceClassification",
        "JinaEmbeddingsV5Model",
        "JinaForRanking",
        "JinaVLForRanking",
        "LlamaBidirectionalForSequenceClassification",
        "LlamaBidirectionalModel",
        "LlamaModel",
        "LlamaNemotronVLForSequenceClassification",
        "LlamaNemotronVLModel",
        "MistralModel",
        "ModernBertForSequenceClassification",
        "ModernBertForTokenClassification",
        "ModernBertModel",
        "NomicBertModel",
        "OpenAIPrivacyFilterForTokenClassification",
        "OpsColQwen3Model",
        "Qwen2ForProcessRewardModel",
        "Qwen2ForRewardModel",
        "Qwen2Model",
        "Qwen3ASRForcedAlignerForTokenClassification",
        "Qwen3VLNemotronEmbedModel",
        "RobertaForMaskedLM",
        "RobertaForSequenceClassification",
        "RobertaForTokenClassification",
        "RobertaModel",
        "SiglipModel",
        "Terratorch",
        "VoyageQwen3BidirectionalEmbedModel",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaForTokenClassification",
        "XLMRobertaModel",
    }
)

# What vLLM takes a name for that is in neither table, by its ending: the first that matches decides.
# vllm==0.31.0:vllm/config/model.py:_SUFFIX_TO_DEFAULTS
POOLS_BY_ENDING: tuple[tuple[str, bool], ...] = (
    ("ForCausalLM", False),
    ("ForConditionalGeneration", False),
    ("ChatModel", False),
    ("LMHeadModel", False),
    ("ForTextEncoding", True),
    ("EmbeddingModel", True),
    ("ForSequenceClassification", True),
    ("ForTokenClassification", True),
    ("ForAudioClassification", True),
    ("ForImageClassification", True),
    ("ForVideoClassification", True),
    ("ClassificationModel", True),
    ("ForRewardModeling", True),
    ("RewardModel", True),
    ("Model", True),
)

# They generate text, whatever their ending says.
GENERATING = frozenset(
    {
        "ChatGLMModel",
        "MiDashengLMModel",
        "MossAudioModel",
        "Qwen2_5OmniModel",
        "UltravoxModel",
    }
)
