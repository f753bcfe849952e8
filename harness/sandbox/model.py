"""A tiny Llama with random weights and a small tokenizer: the same seed gives the same bytes on every machine.

Weights are uniform, drawn by NumPy's frozen legacy generator, so they do not depend on the machine. Their scales make
greedy answers useful for a benchmark: untied embeddings and sharp attention make answers varied (nine of ten tokens
are distinct) and dependent on every prompt token; weak feed-forward layers make float32 engines agree; likely ends of
sentences and rare ends of answers let a few percent of the answers stop before 128 tokens.
"""

import json
from typing import Any

import numpy as np

from harness.sandbox.text import PROMPT, Language

VOCABULARY = 2048
BEGIN, *ENDS = range(VOCABULARY - 4, VOCABULARY)

_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
_HIDDEN, _LAYERS, _HEADS, _KV_HEADS, _HEAD_SIZE, _FEED_FORWARD = 64, 2, 2, 1, 32, 128
_SHARP, _WEAK = 1.5, 0.5
_LIKELY, _RARE = 1.3, 0.9
_MAX_POSITIONS = 4096
_TRAINING_ARTICLES = 1000


def model_files(seed: int) -> dict[str, bytes]:
    """Name and content of each file of the model directory."""
    from safetensors.numpy import save

    config, generation = _configs()
    tokenizer = _tokenizer(seed)
    sentence_ends = [tokenizer.token_to_id(mark) for mark in ".?!"]
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIAL[0],
        "eos_token": _SPECIAL[3],
        "clean_up_tokenization_spaces": False,
        "model_max_length": _MAX_POSITIONS,
    }
    return {
        "config.json": _json(config),
        "generation_config.json": _json(generation),
        "tokenizer_config.json": _json(tokenizer_config),
        "tokenizer.json": tokenizer.to_str().encode(),
        "model.safetensors": save(_weights(seed, sentence_ends), metadata={"format": "pt"}),
    }


def _configs() -> tuple[dict[str, Any], dict[str, Any]]:
    ends = {"bos_token_id": BEGIN, "eos_token_id": ENDS}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": _HIDDEN,
        "intermediate_size": _FEED_FORWARD,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KV_HEADS,
        "head_dim": _HEAD_SIZE,
        "max_position_embeddings": _MAX_POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        **ends,
    }
    return config, {**ends, "do_sample": False}


def _tokenizer(seed: int) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    language = Language(seed)
    texts = (PROMPT.format(input=language.article(number)) for number in range(_TRAINING_ARTICLES))
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(_SPECIAL), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIAL[0]} $A", special_tokens=[(_SPECIAL[0], BEGIN)]
    )
    return tokenizer


def _weights(seed: int, sentence_ends: list[int]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    draw = np.random.RandomState(seed)  # the only generator whose stream NumPy guarantees

    def matrix(rows: int, columns: int, spread: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Uniform values with standard deviation `spread`."""
        return ((draw.random_sample((rows, columns)) * 2 - 1) * (spread * 3**0.5)).astype(np.float32)

    unit, deep = _HIDDEN**-0.5, _FEED_FORWARD**-0.5
    queries, keys = _HEADS * _HEAD_SIZE, _KV_HEADS * _HEAD_SIZE
    ones = np.ones(_HIDDEN, dtype=np.float32)
    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, _HIDDEN, 1.0), "model.norm.weight": ones}
    for layer in range(_LAYERS):
        weights |= {
            f"model.layers.{layer}.{name}.weight": value
            for name, value in {
                "input_layernorm": ones,
                "self_attn.q_proj": matrix(queries, _HIDDEN, _SHARP * unit),
                "self_attn.k_proj": matrix(keys, _HIDDEN, _SHARP * unit),
                "self_attn.v_proj": matrix(keys, _HIDDEN, unit),
                "self_attn.o_proj": matrix(_HIDDEN, queries, queries**-0.5),
                "post_attention_layernorm": ones,
                "mlp.gate_proj": matrix(_FEED_FORWARD, _HIDDEN, unit),
                "mlp.up_proj": matrix(_FEED_FORWARD, _HIDDEN, unit),
                "mlp.down_proj": matrix(_HIDDEN, _FEED_FORWARD, _WEAK * deep),
            }.items()
        }
    head = matrix(VOCABULARY, _HIDDEN, 1.0)
    head[BEGIN] = 0  # never generated
    head[ENDS] *= _RARE
    head[sentence_ends] *= _LIKELY
    return {**weights, "lm_head.weight": head}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
