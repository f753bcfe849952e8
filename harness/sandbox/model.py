"""A tiny Llama with random weights and a small tokenizer: the same seed gives the same bytes on every machine.

Weights are uniform, drawn by NumPy's frozen legacy generator, so they do not depend on the machine. Their scales make
greedy answers useful for a benchmark: untied embeddings and sharp attention make answers varied (nine of ten tokens
are distinct) and dependent on every prompt token; weak feed-forward layers make float32 engines agree; likely ends of
sentences and rare ends of answers let a few percent of the answers stop before 128 tokens.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.sandbox.text import PROMPT, Language


class Shape(NamedTuple):
    """Sizes of a Llama, with the ids of its vocabulary that begin and end a text."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    feed_forward: int
    begin: int
    ends: Sequence[int]


VOCABULARY = 2048
BEGIN, *ENDS = range(VOCABULARY - 4, VOCABULARY)
TINY = Shape(VOCABULARY, 64, 2, 2, 1, 32, 128, BEGIN, ENDS)

_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
_TRAINED = VOCABULARY - len(_SPECIAL)
_SHARP, _WEAK = 1.5, 0.5
_LIKELY, _RARE = 1.3, 0.9
_MAX_POSITIONS = 4096
_TRAINING_ARTICLES = 1000


def model_files(seed: int) -> dict[str, bytes]:
    """Name and content of each file of the model directory."""
    from safetensors.numpy import save
    from tokenizers import Tokenizer

    files = text_files(TINY, seed, "float32")
    tokenizer: Any = Tokenizer.from_str(files["tokenizer.json"].decode())
    sentence_ends = [tokenizer.token_to_id(mark) for mark in ".?!"]
    return {**files, "model.safetensors": save(_weights(seed, sentence_ends), metadata={"format": "pt"})}


def text_files(shape: Shape, seed: int, dtype: str) -> dict[str, bytes]:
    """Name and content of each file of a model directory but the weights, which are stored as `dtype`."""
    ends = {"bos_token_id": shape.begin, "eos_token_id": list(shape.ends)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": dtype,
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "max_position_embeddings": _MAX_POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        **ends,
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": _SPECIAL[0],
        "eos_token": _SPECIAL[3],
        "clean_up_tokenization_spaces": False,
        "model_max_length": _MAX_POSITIONS,
    }
    return {
        "config.json": _json(config),
        "generation_config.json": _json({**ends, "do_sample": False}),
        "tokenizer_config.json": _json(tokenizer_config),
        "tokenizer.json": _tokenizer(shape, seed).to_str().encode(),
    }


def _tokenizer(shape: Shape, seed: int) -> Any:
    """A tokenizer trained on articles; ids between the trained ones and `shape.begin` are made of no text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    language = Language(seed)
    texts = (PROMPT.format(input=language.article(number)) for number in range(_TRAINING_ARTICLES))
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=_TRAINED, show_progress=False))
    if shape.begin > _TRAINED:
        document = json.loads(trained.to_str())
        document["model"]["vocab"] |= {f"unused{number}": number for number in range(_TRAINED, shape.begin)}
        trained = Tokenizer.from_str(json.dumps(document))
    named = dict(zip((shape.begin, *shape.ends), _SPECIAL, strict=True))
    special = [named.get(number, f"<|special{number}|>") for number in range(shape.begin, shape.vocabulary)]
    trained.add_special_tokens([AddedToken(name, special=True) for name in special])
    trained.post_processor = processors.TemplateProcessing(
        single=f"{_SPECIAL[0]} $A", special_tokens=[(_SPECIAL[0], shape.begin)]
    )
    return trained


def matrices(shape: Shape) -> Iterator[tuple[str, int, int, float]]:
    """Name, rows, columns and standard deviation of each matrix, in the order in which it is drawn."""
    unit, deep = shape.hidden**-0.5, shape.feed_forward**-0.5
    queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    yield "model.embed_tokens.weight", shape.vocabulary, shape.hidden, 1.0
    for layer in range(shape.layers):
        for name, rows, columns, spread in (
            ("self_attn.q_proj", queries, shape.hidden, _SHARP * unit),
            ("self_attn.k_proj", keys, shape.hidden, _SHARP * unit),
            ("self_attn.v_proj", keys, shape.hidden, unit),
            ("self_attn.o_proj", shape.hidden, queries, queries**-0.5),
            ("mlp.gate_proj", shape.feed_forward, shape.hidden, unit),
            ("mlp.up_proj", shape.feed_forward, shape.hidden, unit),
            ("mlp.down_proj", shape.hidden, shape.feed_forward, _WEAK * deep),
        ):
            yield f"model.layers.{layer}.{name}.weight", rows, columns, spread
    yield "lm_head.weight", shape.vocabulary, shape.hidden, 1.0


def norms(shape: Shape) -> Iterator[str]:
    """Names of the weights that are all ones, `shape.hidden` of them each."""
    for layer in range(shape.layers):
        yield f"model.layers.{layer}.input_layernorm.weight"
        yield f"model.layers.{layer}.post_attention_layernorm.weight"
    yield "model.norm.weight"


def _weights(seed: int, sentence_ends: list[int]) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    draw = np.random.RandomState(seed)  # the only generator whose stream NumPy guarantees

    def matrix(rows: int, columns: int, spread: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Uniform values with standard deviation `spread`."""
        return ((draw.random_sample((rows, columns)) * 2 - 1) * (spread * 3**0.5)).astype(np.float32)

    weights = {name: matrix(rows, columns, spread) for name, rows, columns, spread in matrices(TINY)}
    head = weights["lm_head.weight"]
    head[BEGIN] = 0  # never generated
    head[ENDS] *= _RARE
    head[sentence_ends] *= _LIKELY
    return weights | {name: np.ones(TINY.hidden, dtype=np.float32) for name in norms(TINY)}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
