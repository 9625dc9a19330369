"""What an hour of a card costs: the user's price, or a small dated table."""

import csv
import re
from dataclasses import dataclass
from functools import cache
from io import StringIO

from lora_profiler.catalog.config import data_text
from lora_profiler.errors import UsageError
from lora_profiler.units import is_finite

_PRICE = re.compile(r"\s*(?P<amount>[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*/\s*(?:h|hr|hour)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """An hour of one card. `date` is the day on which `provider` asked for it at `source`, as
    `read_from` recorded; all empty for a price of the user's.

    Raises UsageError for an amount that is none.

    Examples:
        >>> from lora_profiler import Price
        >>> Price(per_hour=0.74).currency
        ''
    """

    per_hour: float
    currency: str = ""
    date: str = ""
    provider: str = ""
    source: str = ""
    read_from: str = ""

    def __post_init__(self) -> None:
        if not is_finite(self.per_hour) or self.per_hour < 0:
            raise UsageError("a price is a finite number from 0 up, an hour of one card.")


@cache
def table_prices() -> dict[str, Price]:
    """By a card's key, of the cards whose price a source gives with its date, in US dollars."""
    rows = csv.DictReader(StringIO(data_text("prices.csv")))
    named = ("date", "provider", "source", "read_from")
    return {
        row["key"]: Price(
            per_hour=float(row["usd_per_hour"]), currency="USD", **{n: row[n] for n in named}
        )
        for row in rows
    }


def read_price(text: str) -> tuple[str, Price]:
    """The name of a card and its price, of 'rtx_4090=0.74/h'.

    Raises UsageError for another text, and for a price that does not say of how long.

    Examples:
        >>> from lora_profiler.catalog.prices import read_price
        >>> name, price = read_price("rtx_4090=0.74/h")
        >>> name, price.per_hour
        ('rtx_4090', 0.74)
    """
    name, equals, amount = text.partition("=")
    found = _PRICE.fullmatch(amount)
    if not equals or not name.strip() or found is None:
        raise UsageError(
            f"--price is {text[:60]!r}; write a card and the price of its hour, as in"
            " rtx_4090=0.74/h."
        )
    return name.strip(), Price(per_hour=float(found["amount"]))
