"""Claim 6: the update of full fine-tuning has a low rank in effect: its spectrum, and what its best
approximations still gain."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.mathematics.adapters import adapted
from lora_profiler.mathematics.claim import Finding, Tell, Verdict
from lora_profiler.mathematics.effort import Effort
from lora_profiler.mathematics.full_tuning import FullTuning
from lora_profiler.mathematics.subject import Subject
from lora_profiler.mathematics.training import mean_loss, train
from lora_profiler.mathematics.update_spectra import kind_rows, layer_rows
from lora_profiler.units import percent_text

ALPHA = 16
"""Of LoRA at every rank, with alpha / r: claim 5 shows that one learning rate then serves all
ranks."""
MOST_OF_GAIN = 0.9
LOW_RANK = 8


def check(subject: Subject, effort: Effort, seed: int, tell: Tell) -> Finding:
    """Fine-tunes in full, takes each layer's update apart, puts it back at every rank, and trains
    LoRA at the same ranks."""
    ranks, held_out = effort.tuning_ranks, subject.held_out_batches(effort)
    batches = subject.training_batches(effort.tuning_steps, effort, seed)
    steps, total = len(batches), len(batches) * (len(ranks) + 1)
    model = subject.model()
    base_loss = mean_loss(model, held_out)
    tuning = FullTuning(
        model,
        batches,
        effort.full_learning_rate,
        seed,
        lambda done: tell("fine-tuning in full", done, total),
    )
    update = tuning.update
    spectra = tuning.spectra(
        lambda number: tell(f"spectrum {number + 1} of {len(update)}", steps, total)
    )
    losses = {"base": base_loss, "full": mean_loss(tuning.as_tuned(), held_out)}
    losses["linear_layers_alone"] = mean_loss(tuning.with_updates(update), held_out)
    gain = base_loss - losses["linear_layers_alone"]
    rows = []
    for number, r in enumerate(ranks, 1):
        cut = {name: spectra[name].truncated(each, r) for name, each in update.items()}
        truncated = mean_loss(tuning.with_updates(cut), held_out)
        told = lambda step, r=r, done=number * steps: tell(f"LoRA at rank {r}", done + step, total)  # noqa: E731
        with adapted(subject.model(), r=r, alpha=ALPHA, seed=seed) as wrapped:
            train(
                wrapped,
                batches,
                learning_rate=effort.lora_learning_rate,
                seed=seed,
                after_step=told,
            )
            lora = mean_loss(wrapped, held_out)
        rows.append(
            {
                "rank": r,
                "truncated_loss": truncated,
                "truncated_gain_share": (base_loss - truncated) / gain,
                "lora_loss": lora,
                "lora_gain_share": (base_loss - lora) / gain,
            }
        )
    evidence = {
        "steps": steps,
        "tokens_per_step": batches[0].numel(),
        "full_learning_rate": effort.full_learning_rate,
        "lora_learning_rate": effort.lora_learning_rate,
        "lora_alpha": ALPHA,
        "losses": losses,
        "changed_share": tuning.changed_share(),
        "ranks": rows,
        "kinds": kind_rows(tuning.base, spectra, seed),
        "layers": layer_rows(spectra),
    }
    return Finding(verdict=_verdict(evidence), sentences=_sentences(evidence), evidence=evidence)


def _verdict(evidence: dict[str, Any]) -> Verdict:
    """Holds if rank 8 keeps most of the gain; partly, if rank 8 keeps half of it; where nothing was
    gained, nothing can hold."""
    losses = evidence["losses"]
    if losses["base"] <= losses["linear_layers_alone"]:
        return "fails"
    low = max(row["truncated_gain_share"] for row in evidence["ranks"] if row["rank"] <= LOW_RANK)
    return "holds" if low >= MOST_OF_GAIN else "holds_partly" if low >= 0.5 else "fails"


def rank_for_gain(rows: Sequence[dict[str, Any]], share: float) -> int | None:
    """The least rank tried at which the truncated update keeps `share` of the gain; None if none
    does."""
    return next((row["rank"] for row in rows if row["truncated_gain_share"] >= share), None)


def _sentences(evidence: dict[str, Any]) -> tuple[str, ...]:
    losses, rows, kinds = evidence["losses"], evidence["ranks"], evidence["kinds"]
    low = next(row for row in reversed(rows) if row["rank"] <= LOW_RANK)
    enough = rank_for_gain(rows, MOST_OF_GAIN)
    energies = [kind["energy_at_8"] for kind in kinds]
    shares = sorted(
        kind["effective_rank"] / min(kind["out_features"], kind["in_features"]) for kind in kinds
    )
    return (
        (
            f"Full fine-tuning changed {percent_text(evidence['changed_share'])} of the numbers in"
            f" the linear layers; held-out loss {losses['base']:.3f} -> {losses['full']:.3f}, and"
            f" {losses['linear_layers_alone']:.3f} with their update alone."
        ),
        f"Cut down to rank {low['rank']}, that update keeps"
        f" {percent_text(low['truncated_gain_share'])} of its gain, to rank 1"
        f" {percent_text(rows[0]['truncated_gain_share'])}; "
        + (
            f"{percent_text(MOST_OF_GAIN)} of it needs rank {enough}."
            if enough
            else "no rank tried keeps 90 % of it."
        ),
        (
            "By its numbers the update is not of low rank: rank 8 holds"
            f" {percent_text(min(energies))} to {percent_text(max(energies))} of its energy, and"
            f" its effective rank is {percent_text(shares[0])} to {percent_text(shares[-1])} of the"
            " full one."
            if max(energies) < MOST_OF_GAIN
            else (
                f"Rank 8 holds {percent_text(min(energies))} to {percent_text(max(energies))} of"
                " its energy."
            )
        ),
        (
            f"LoRA trained at rank {low['rank']} on the same batches gains"
            f" {percent_text(low['lora_gain_share'])} of what the full update of these layers"
            " gains."
        ),
    )
