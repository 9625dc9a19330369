"""Random questions to `lora-profile predict`, hostile values among them, and the same question with
one thing varied."""

import random
from collections.abc import Sequence

HOSTILE_SHARE = 0.03
"""Of the values of options."""
NUMBERS = (
    "",
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e3",
    "0x10",
    "2147483648",
    "9" * 400,
    "9" * 5000,
    "٣",
    "1_0",
    " 7",
    "💥",
)
TEXTS = (
    "",
    " ",
    ",",
    "-",
    "a" * 3000,
    "é",
    "💥",
    "\x00",
    "\n",
    "\x1b[31m",
    "\udcff",
    "../..",
    "{}",
    "%s%n",
    "'; --",
    "nan",
)
PATTERNS = (
    "re:",
    "re:(",
    "re:*",
    "re:" + "(" * 5000,
    "re:(.*)*(.*)*(.*)*x",
    "re:(.|..)*Z",
    "re:(([a-z_.0-9])*)*!",
    "re:é",
    "re:\udcff",
    "re:a{99999999999999}",
    "re:(?P<n>.*)(?P=n)x",
    "re:.*\\.[0-9]+\\..*",
)
SIZES = {
    "--batch-size": (1, 2, 3, 4, 7, 8, 16, 33, 128, 1024),
    "--seq-len": (
        1,
        2,
        15,
        16,
        17,
        64,
        100,
        128,
        511,
        512,
        1000,
        1024,
        2048,
        4096,
        8192,
        32768,
        131072,
    ),
    "--rank": (1, 2, 3, 4, 8, 16, 17, 64, 256, 1024),
}
RISING = tuple(SIZES)
CHOICES: dict[str, tuple[str, ...]] = {
    "--alpha": ("1", "16", "32", "0.5", "1e300", "5e-324"),
    "--dropout": ("0", "0.05", "0.1", "0.999"),
    "--targets": (
        "all-linear",
        "default",
        "attention",
        "q_proj,v_proj",
        "c_attn",
        "re:.*(q|v)_proj",
        "re:.*attn.*",
        "lm_head",
    ),
    "--layers-to-transform": ("0", "0-1", "0,2-3", "5"),
    "--modules-to-save": ("lm_head", "embed_tokens", "norm", "wte", "score"),
    "--adapter-dtype": ("float32", "bfloat16", "float16"),
    "--packed": ("64", "512", "100000"),
    "--accumulation": ("1", "2", "8", "1000"),
    "--dtype": ("float32", "bfloat16", "float16"),
    "--precision": ("pure", "amp"),
    "--recipe": ("stock", "kbit", "trl"),
    "--optimizer": ("adamw", "adamw_8bit", "sgd", "adafactor"),
    "--optimizer-impl": ("foreach", "fused", "forloop"),
    "--attention": ("auto", "flash", "efficient", "cudnn", "math", "eager"),
    "--loss": (
        *("plain", "chunked", "fused", "trl"),
        *("torchtune", "torchtune-chunked", "cce", "litgpt", "triton"),
    ),
    "--kernels": ("transformers", "liger"),
    "--device": ("cuda", "cpu", "mps", "xpu"),
    "--engine": ("auto", "analytic", "compiled"),
    "--gpu": (
        "rtx_4090",
        "h100_sxm_80gb",
        "t4",
        "v100_sxm2_16gb",
        "custom:24GiB",
        "custom:1MiB",
        "mi300x",
    ),
    "--interconnect": ("nvlink4", "pcie5", "25GB/s", "0.000000001GB/s"),
    "--revision": ("main", "v1"),
}
HOSTILE: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (*SIZES, "--alpha", "--dropout", "--accumulation", "--packed", "--layers-to-transform"),
        NUMBERS,
    ),
    "--targets": (*PATTERNS, *TEXTS),
    "--modules-to-save": ("(.*)*(.*)*x", "(", *TEXTS),
    "--gpu": (*TEXTS, *(f"custom:{number}GiB" for number in NUMBERS)),
    "--interconnect": (*TEXTS, *(f"{number}GB/s" for number in NUMBERS)),
}
SHARDED = ("ddp", "zero1", "zero2", "zero3", "fsdp", "fsdp-no-reshard", "tp")


def question(dice: random.Random, models: Sequence[str]) -> list[str]:
    """The arguments of one call, without --format; every option is there with a chance of its
    own."""
    asked = {
        name: str(dice.choice(values)) for name, values in SIZES.items() if dice.random() < 0.5
    }
    asked |= {name: dice.choice(values) for name, values in CHOICES.items() if dice.random() < 0.12}
    methods = [method for method in ("full", "lora", "qlora") if dice.random() < 0.4]
    if methods == ["full"]:  # which reads none of LoRA's options: mostly a refusal
        asked = {
            name: value
            for name, value in asked.items()
            if name not in ("--rank", "--alpha", "--dropout", "--targets")
        }
    if dice.random() < 0.15:
        asked |= {
            "--world-size": dice.choice(("2", "3", "8", "64")),
            "--sharding": dice.choice(SHARDED),
        }
    for name in asked:
        if dice.random() < HOSTILE_SHARE:
            asked[name] = dice.choice(HOSTILE.get(name, TEXTS))
    model = dice.choice(TEXTS) if dice.random() < HOSTILE_SHARE / 2 else dice.choice(models)
    words = [word for name, value in asked.items() for word in (name, value)]
    words += [word for method in methods for word in ("--method", method)]
    words += ["--checkpointing"] if dice.random() < 0.25 else []
    words += ["--hold-outputs"] if dice.random() < 0.1 else []
    return ["predict", *words, "--offline", "--", model]


def raised(arguments: list[str], dice: random.Random) -> tuple[list[str], str] | None:
    """The same question with one size that is larger, and which; None where no size was asked."""
    places = [
        i for i, word in enumerate(arguments) if word in RISING and arguments[i + 1].isdecimal()
    ]
    if not places:
        return None
    place = dice.choice(places)
    old = int(arguments[place + 1])
    new = old + dice.choice((1, 7, 64, old, 3 * old))
    return [*arguments[: place + 1], str(new), *arguments[place + 2 :]], arguments[place]


def with_engine(arguments: list[str], engine: str) -> list[str]:
    words = list(arguments)
    if "--engine" in words:
        place = words.index("--engine")
        del words[place : place + 2]
    return ["predict", "--engine", engine, *words[1:]]
