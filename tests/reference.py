"""Numbers that others took from real runs of the same library versions, on the toy models of
`families`."""

import families

# family: full, q and v (GPT-2: c_attn), all (MoE: q, k, v, o), full GC, all GC, full eager, full
# fp32, full at b 1 s 17
SAVED = {
    "llama": (324_484, 277_828, 464_452, 52_612, 43_012, 418_948, 560_644, 115_340),
    "qwen2": (324_484, 277_828, 464_452, 52_612, 43_012, 418_948, 560_644, 115_340),
    "qwen3": (425_092, 344_260, 546_628, 52_612, 43_012, 524_164, 703_108, 151_108),
    "gpt2": (420_292, 357_316, 530_116, 43_588, 38_404, 445_636, 817_924, 148_932),
    "gemma3_text": (599_620, 403_332, 605_764, 57_412, 43_204, 698_692, 817_732, 214_780),
    "gemma2": (621_604, 462_628, 664_612, 67_108, 52_900, 621_604, 867_844, 210_894),
    "mixtral": (523_252, 416_692, 476_596, 52_612, 43_012, 617_716, 943_732, 185_768),
    "qwen3_moe": (458_020, 358_756, 434_404, 52_612, 43_012, 557_092, 755_044, 162_832),
}
PARAMETERS = {
    "llama": 79_152, "qwen2": 74_592, "qwen3": 86_160, "gpt2": 102_048, "gemma3_text": 81_600,
    "gemma2": 81_504, "mixtral": 224_880, "qwen3_moe": 177_168,
}  # fmt: skip

WIDE = families.TINY["llama"] | {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "vocab_size": 32000,
}

RESIZED = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 8, "head_dim": 8,
    "intermediate_size": 96, "vocab_size": 333,
}  # fmt: skip
"""The tiny Llama in another size."""
RESIZED_SAVED = [
    (33, 4, 40, "bfloat16", 1_589_124),
    (33, 4, 40, "float32", 1_549_444),
    (1, 2, 63, "bfloat16", 1_026_652),
]
"""Its saved bytes under LoRA of (rank, batch, sequence, dtype)."""
