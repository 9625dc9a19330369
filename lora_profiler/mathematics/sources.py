"""Where the model to check comes from: the hub, a folder, a GGUF file, or, where there are no
weights, a small one trained on the spot; and its text.

The small one is a Llama of under a million parameters that reads bytes. It learns *The Tempest*;
the claims are then checked with *The Sonnets*, which it has never seen.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from lora_profiler._common.paths import read_regular
from lora_profiler.errors import ModelNotFoundError, UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.mathematics.subject import SMALL_MODEL_STEPS, Subject, train
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.report.claims.claim import Tell
from lora_profiler.trace.modeling import build_model, text_tokens
from lora_profiler.trace.modeling.third_party import quiet, refusals, require
from lora_profiler.units import count_text

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M"
SMALL = "small"
"""Asks for the small model."""
MOST_CHARACTERS = 500_000
"""Of a text; nothing here would read more."""
LEAST_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """What is to be checked, as it was asked for. `model` is what `find_model` takes, "small", or
    None for SmolLM2-135M.

    `weights` is None for those that belong to the model (in its folder, or on the hub), a folder,
    or a .gguf file; `text` a file, or None for the bundled *Sonnets*.
    """

    model: str | None = None
    weights: str | None = None
    text: Path | None = None
    offline: bool = False
    quick: bool = False
    seed: int = 0


def open_subject(
    request: VerifyRequest,
    work: Path,
    tell: Tell,
    admit: Callable[[ModelSpec], None] = lambda spec: None,
) -> Subject:
    """The model asked for with its weights and text. Where none was asked for and SmolLM2-135M's
    weights cannot be had, a small model is trained on the spot, which the subject's note says.
    Files are made in `work`; `admit` may raise before any is.

    Raises ModelNotFoundError for weights that cannot be had, UsageError for a text that cannot be
    read or is too short, UnbuildableError where a library is missing.
    """
    require("transformers", '"lora-profiler[measure]"', "Checking the mathematics")
    require("peft", '"lora-profiler[measure]"', "Checking the mathematics")
    if request.model == SMALL:
        return _small(request, work, tell, "")
    try:
        return _with_weights(request, work, admit)
    except ModelNotFoundError as e:
        if request.model is not None or request.weights is not None:
            raise
        return _small(request, work, tell, f"The weights of {DEFAULT_MODEL} could not be had: {e} ")


def _with_weights(
    request: VerifyRequest, work: Path, admit: Callable[[ModelSpec], None]
) -> Subject:
    model = request.model or DEFAULT_MODEL
    spec = find_model(model, offline=request.offline)
    admit(spec)
    if request.weights is not None:
        path = Path(request.weights).expanduser()
        folder = _unpacked(spec, path, work) if path.suffix == ".gguf" else path
        name = path.resolve().name
    elif (here := Path(model).expanduser()).is_dir():
        folder, name = here, here.resolve().name
    else:
        folder, name = hub_folder(spec, request.offline), "hub"
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise ModelNotFoundError(
            f"{folder} holds no weights; give a folder with a model's files, or a .gguf file."
        )
    return _subject(spec, folder, name, request.text, work, None)


def hub_folder(spec: ModelSpec, offline: bool) -> Path:
    """The folder of the local Hugging Face cache that holds the weights of `spec`, fetched from the
    hub where they are missing.

    Raises ModelNotFoundError where they cannot be had.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.model"]
    may_ask = not offline and not constants.HF_HUB_OFFLINE
    try:
        folder = Path(snapshot_download(spec.id, allow_patterns=patterns, local_files_only=True))
        if any(folder.glob("*.safetensors")):
            return folder
    except (LocalEntryNotFoundError, HFValidationError):
        pass
    if not may_ask:
        raise ModelNotFoundError(
            f"{spec.id} is not in the local Hugging Face cache. Offline: go online once, or"
            " name a folder with --weights."
        )
    # The HTTP client's own base class, as in catalog.hub, without naming the client.
    failures: tuple[type[BaseException], ...] = (
        HfHubHTTPError.__bases__[0],
        OSError,
        LocalEntryNotFoundError,
    )
    try:
        folder = Path(snapshot_download(spec.id, allow_patterns=patterns, etag_timeout=5))
    except failures as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise ModelNotFoundError(f"the hub did not give them ({reason[:200]}).") from None
    if not any(folder.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"{spec.id} has no weights as safetensors on the hub; give a folder with --weights."
        )
    return folder


def _unpacked(spec: ModelSpec, path: Path, work: Path) -> Path:
    """A folder with the weights of a GGUF file in float32 and its tokenizer: every process here
    then loads them in a second."""
    if not path.is_file():
        raise UsageError(f"--weights {path}: there is no such file.")
    from transformers import AutoTokenizer

    folder = work / "unpacked"
    workload = Workload(model=spec, setup=TrainSetup(device="cpu", dtype="float32"))
    model: Any = build_model(workload, weights=str(path))
    with quiet(), refusals(f"no tokenizer could be loaded from {path.name}"):
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name).save_pretrained(folder)
    return folder


def _small(request: VerifyRequest, work: Path, tell: Tell, why: str) -> Subject:
    folder, steps = work / "small-llama", SMALL_MODEL_STEPS[request.quick]
    losses = train_small(folder, seed=request.seed, steps=steps, tell=tell)
    spec = find_model(str(folder))
    note = (
        f"{why}Checked on a small Llama with {count_text(spec.num_parameters)} parameters. It was"
        f" trained on the bundled text of The Tempest: {steps} steps, loss {losses[0]:.2f} ->"
        f" {losses[-1]:.2f}. Sizes, losses and times hold for this model only."
    )
    return _subject(spec, folder, "trained on the spot", request.text, work, note)


def _subject(
    spec: ModelSpec, folder: Path, weights: str, text: Path | None, work: Path, note: str | None
) -> Subject:
    if text is None:
        with as_file(bundled_text("sonnets")) as path:
            content, name = path.read_text("utf-8"), "The Sonnets (bundled)"
    else:
        try:
            content = read_regular(text.expanduser(), 4 * MOST_CHARACTERS).decode(
                "utf-8", "replace"
            )
            name = text.name
        except OSError as e:
            raise UsageError(f"the text {text} cannot be read: {e.strerror}.") from None
    if len(content) > MOST_CHARACTERS:
        content, name = (
            content[:MOST_CHARACTERS],
            f"{name}, first {count_text(MOST_CHARACTERS)} characters",
        )
    excerpt = work / "text.txt"
    excerpt.write_text(content, "utf-8")
    tokens = text_tokens(str(excerpt), str(folder))
    if len(tokens) < LEAST_TOKENS:
        raise UsageError(
            f"the text has {len(tokens)} tokens; at least {LEAST_TOKENS} are needed to train and to"
            " measure on."
        )
    return Subject(
        spec=spec,
        folder=folder,
        weights=weights,
        text_path=excerpt,
        text=name,
        tokens=tokens,
        note=note,
    )


# --- the small model ------------------------------------------------------------------------------

CONFIG: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128,
    "intermediate_size": 320, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 256, "max_position_embeddings": 1024,
    "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None, "dtype": "float32",
}  # fmt: skip
BATCH_SIZE, SEQ_LEN = 16, 64
LEARNING_RATE = 3e-3


def train_small(
    folder: Path, *, seed: int, steps: int, tell: Tell, config: dict[str, Any] = CONFIG
) -> list[float]:
    import torch

    spec = model_from_config(config, id="small-llama", source="trained on the spot")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with quiet():
        byte_tokenizer().save_pretrained(folder)
    with as_file(bundled_text("tempest")) as text:
        tokens = text_tokens(str(text), str(folder))
    draw = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(tokens) - SEQ_LEN, (steps, BATCH_SIZE), generator=draw)
    batches = [torch.stack([tokens[s : s + SEQ_LEN] for s in row.tolist()]) for row in starts]
    model: Any = build_model(Workload(model=spec, setup=TrainSetup(device="cpu", dtype="float32")))
    losses = train(
        model,
        batches,
        learning_rate=LEARNING_RATE,
        seed=seed,
        after_step=lambda done: tell("training it", done, steps),
    )
    with quiet():
        model.save_pretrained(folder)
    return losses


def bundled_text(name: str) -> Any:
    """The file of a bundled text, "tempest" or "sonnets"."""
    return files("lora_profiler.mathematics").joinpath("text", f"{name}.txt")


def byte_tokenizer() -> Any:
    """A tokenizer of transformers whose 256 tokens are the bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)  # type: ignore[no-untyped-call]
