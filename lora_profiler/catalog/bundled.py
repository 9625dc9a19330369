"""The bundled models as a list to look through."""

from dataclasses import dataclass, fields

from lora_profiler.catalog.facts import facts, rows

__all__ = ["CatalogEntry", "bundled_models", "facts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One bundled model. `num_parameters` is transformers' own count of `architecture`, tied
    weights once.

    `aliases` are ids of models with the same config; `source` is where the config comes from,
    `published_source` where `published_num_parameters` stands; `verification` compares the two
    counts (meanings: `about` in the data file). `dtype` is that of the published checkpoint, None
    where its config.json states none; `checkpoint_quantization` is its quant_method where it is
    stored quantised.
    """

    id: str
    aliases: tuple[str, ...]
    model_type: str
    architecture: str
    gated: bool
    dtype: str | None
    checkpoint_quantization: str | None
    num_parameters: int
    published_num_parameters: int | None
    published_source: str | None
    verification: str
    source: str


def bundled_models() -> tuple[CatalogEntry, ...]:
    """Every bundled model, in the order of the data file: by type, then size.

    Examples:
        >>> from lora_profiler import bundled_models
        >>> "openai-community/gpt2" in {entry.id for entry in bundled_models()}
        True
    """
    names = [f.name for f in fields(CatalogEntry)]
    made = ({name: row.get(name) for name in names} for row in rows())
    return tuple(CatalogEntry(**{**each, "aliases": tuple(each["aliases"])}) for each in made)
