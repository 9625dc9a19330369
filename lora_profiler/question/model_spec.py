"""What a model is made of: every named weight with its shape, and the config fields that change
memory.

Names are those of `named_modules()` / `named_parameters()` in transformers. A model of 80 equal
layers holds one copy of that layer: a `Stack` lists its distinct layers once and says in which
order they follow.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

HEADLESS = "AutoModel"
"""The class of a model without a head, whatever its type: what sentence-transformers loads."""
Sound = tuple[int, int]
"""Bands and frames of a log-mel spectrum."""
FRAMES_A_SECOND = 100
"""Whisper's feature extractor makes one for 160 samples of 16,000 a second."""
LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
"""What configs call the longest sequence that a model was made for."""
LINEAR_KINDS = frozenset({"Linear", "Conv1D"})


def is_headless(architecture: str | None) -> bool:
    """Whether a class is a family's body alone: BertModel, not GPT2LMHeadModel."""
    name = architecture or ""
    return name.endswith("Model") and "LMHead" not in name


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One parameter of a module. `name` is local ("weight"); `tied_to` is the full name of the
    parameter it shares."""

    name: str
    shape: tuple[int, ...]
    tied_to: str | None = None

    @property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """A module that owns parameters itself.

    `name` is relative to the layer inside a `Stack` ("self_attn.q_proj"), absolute outside. `kind`
    is the torch class that PEFT tells apart ("Linear", "Conv1D", "Embedding", "Conv2d", ...), else
    the class name ("LlamaRMSNorm").
    """

    name: str
    kind: str
    weights: tuple[Weight, ...]

    @property
    def is_linear(self) -> bool:
        return self.kind in LINEAR_KINDS

    @property
    def in_features(self) -> int | None:
        """Columns of x that the layer takes; None if the module is not linear. Conv1D stores its
        weight transposed."""
        return self._shape[1 if self.kind == "Linear" else 0] if self.is_linear else None

    @property
    def out_features(self) -> int | None:
        return self._shape[0 if self.kind == "Linear" else 1] if self.is_linear else None

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.weight("weight").shape

    def weight(self, name: str) -> Weight:
        for weight in self.weights:
            if weight.name == name:
                return weight
        raise KeyError(f"{self.name} has no parameter {name}")

    @property
    def num_parameters(self) -> int:
        """Parameters that this module adds to the model; a tied weight adds none."""
        return sum(w.numel for w in self.weights if w.tied_to is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStack:
    """The layers of one ModuleList: `kinds[order[i]]` are the modules of layer i, whose name is
    `f"{name}.{i}"`."""

    name: str
    kinds: tuple[tuple[Module, ...], ...]
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBase:
    """How a checkpoint stores the linear layers of its model, the output layer left out.

    quant_type: as `Quantization` names it. double_quant: of NF4. bits: of a weight, and group_size:
    inputs, or in FP8 the side of a block, that share a scale, -1 for all. compute_dtype: what the
    layers multiply in, None for whatever the model is in. in_16_bit: names of those layers that are
    in 16 bit all the same. partly: some are, which the checkpoint's own config.json alone tells.
    """

    quant_type: str
    double_quant: bool = False
    bits: int = 4
    group_size: int = 128
    compute_dtype: str | None = None
    partly: bool = False
    in_16_bit: tuple[str, ...] = ()


class TextSide(NamedTuple):
    """A model that sees, of which the language model alone is asked about: its name, its type, and
    its parameters with the vision side. `whole` finds it as a model of its own, for questions with
    images."""

    name: str
    model_type: str
    num_parameters: int
    whole: "Callable[[], ModelSpec]"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model as the answerers see it: identity, config.json fields and weights. Equal when id and
    fingerprint are.

    `config` holds config.json's fields in transformers' present spelling (`hidden_size`,
    `num_hidden_layers`, ...), of the language model where the file nests it. `source` tells where
    they came from: "bundled", a path, or "hub". `output_embedding` is the module that makes the
    logits, None if the class has none. `weightless` names the modules that own no parameter and
    contain none ("model.layers.*.mlp.act_fn", `*` for every layer): target patterns can hit them.
    `published` is the whole config.json as it came, out of which the real model can be built.
    `stored` is set where the checkpoint is a quantised base, on which adapters alone train;
    `dequantized_from` names how a checkpoint is stored whose weights are asked about as turned back
    into 16 bit. `text_side_of` is set where it stands for a model that sees.

    Examples:
        >>> from lora_profiler import find_model
        >>> find_model("gpt2").num_layers
        12
    """

    id: str
    model_type: str
    architecture: str
    source: str
    fingerprint: str
    dtype: str | None = field(compare=False)
    config: Mapping[str, Any] = field(compare=False, repr=False)
    parts: tuple[Module | LayerStack, ...] = field(compare=False, repr=False)
    output_embedding: str | None = field(default=None, compare=False, repr=False)
    weightless: tuple[str, ...] = field(default=(), compare=False, repr=False)
    published: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    stored: StoredBase | None = field(default=None, repr=False)
    dequantized_from: str | None = field(default=None, compare=False, repr=False)
    text_side_of: TextSide | None = field(default=None, compare=False, repr=False)

    def modules(self) -> Iterator[tuple[str, Module]]:
        """(full name, module) of every module that owns parameters, in the order of
        `named_modules()`."""
        for part in self.parts:
            if isinstance(part, Module):
                yield part.name, part
            else:
                for i, kind in enumerate(part.order):
                    for module in part.kinds[kind]:
                        yield f"{part.name}.{i}.{module.name}", module

    @cached_property
    def num_parameters(self) -> int:
        """Unique parameters, tied weights once, buffers not counted: PEFT's and transformers' own
        count."""
        total = 0
        for part in self.parts:
            if isinstance(part, Module):
                total += part.num_parameters
            else:
                sizes = [sum(m.num_parameters for m in kind) for kind in part.kinds]
                total += sum(sizes[kind] for kind in part.order)
        return total

    @property
    def is_embedding(self) -> bool:
        """Whether the class has no head, so that its last hidden states are what trains: pooled to
        an embedding of each text."""
        return self.output_embedding is None and is_headless(self.architecture)

    @property
    def is_masked(self) -> bool:
        """Whether it predicts tokens that are masked, as BERT does."""
        return "MaskedLM" in self.architecture

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads what a decoder answers, as in T5. A masked model's head may be
        called its decoder."""
        words = {word for part in self.parts for word in part.name.split(".")}
        return {"encoder", "decoder"} <= words and not self.is_masked

    @property
    def sound(self) -> Sound | None:
        """The spectrum that the encoder of each sequence reads, None of a model that reads text.
        Whisper takes windows of 30 seconds and refuses any other length (transformers
        `modeling_whisper.py`, WhisperEncoder.forward)."""
        if self.model_type != "whisper":
            return None
        return self.config["num_mel_bins"], 2 * self.config["max_source_positions"]

    @property
    def is_causal(self) -> bool:
        """Whether it is a causal language model, which predicts the next token."""
        return not (self.is_embedding or self.is_masked or self.is_encoder_decoder)

    @property
    def has_tied_head(self) -> bool:
        """Whether the head has no weight of its own."""
        head = self.output_embedding
        return any(w.tied_to for name, m in self.modules() if name == head for w in m.weights)

    @property
    def trained_length(self) -> int | None:
        """The longest sequence that the model was made for, in tokens; None where its config does
        not say."""
        for key in LENGTHS:
            length = self.config.get(key)
            if isinstance(length, int) and not isinstance(length, bool):
                return length
        return None

    @property
    def num_layers(self) -> int:
        return int(self.config["num_hidden_layers"])
