"""What each of several ranks held and how high it went, the highest of them, and how far they lie
apart."""

from lora_profiler.records.record import RankMeasurement, Record
from lora_profiler.report.blocks import Table, filled, table
from lora_profiler.report.measured import run_labels
from lora_profiler.units import byte_unit, in_unit, percent_text


def ranks_table(record: Record) -> Table | None:
    """A row a rank, in the unit of the highest peak; a column that no rank fills is left out. None
    for a run of one process."""
    ranks = record.measurement.ranks
    if not ranks:
        return None
    unit, size = byte_unit(max((r.peak_requested_bytes or 0 for r in ranks), default=0))
    phases = run_labels.PHASE_LABELS

    def text(count: int | None) -> str:
        return "" if count is None else in_unit(count, size)

    found = table(
        ranks,
        (
            ("", lambda r: f"rank {r.rank}"),
            (f"peak, {unit}", lambda r: text(r.peak_requested_bytes)),
            ("in", lambda r: phases.get(r.peak_phase, r.peak_phase) if r.peak_phase else ""),
            (f"persistent, {unit}", lambda r: text(rank_persistent_bytes(r))),
            ("status", lambda r: run_labels.STATUS_LABELS[r.status]),
        ),
        title="Ranks",
    )
    return filled(found)


def rank_persistent_bytes(rank: RankMeasurement) -> int | None:
    return sum(rank.persistent_bytes.values()) if rank.persistent_bytes else None


def ranks_text(record: Record) -> str:
    """'2, alike' or '4, up to 3.1 % lower' for a cell beside the peak; nothing for a run of one
    process."""
    m = record.measurement
    if not m.ranks or m.rank_imbalance is None:
        return ""
    lower = f"up to {percent_text(m.rank_imbalance)} lower" if m.rank_imbalance else "alike"
    return f"{len(m.ranks)}, {lower}"


def ranks_lines(record: Record) -> list[str]:
    """What the table means, and what one process on the same data says of the losses."""
    m, setup = record.measurement, record.workload.setup
    if not m.ranks:
        return []
    lines = []
    if m.rank_imbalance is not None and m.went_through:
        lines.append(
            "All numbers above are those of one rank, the one with the highest peak; the lowest is "
            f"{percent_text(m.rank_imbalance)} below it."
            if m.rank_imbalance
            else "All numbers above are those of one rank; all ranks have the same peak."
        )
    if m.reference_loss and m.loss:
        steps = min(len(m.reference_loss), len(m.loss))
        lines.append(
            f"Mean loss of the ranks at step {steps}: {m.loss[steps - 1]:.6g}; of one process with"
            f" accumulation {setup.accumulation * setup.world_size} on the same data:"
            f" {m.reference_loss[steps - 1]:.6g}."
        )
    return lines
