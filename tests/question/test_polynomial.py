"""Polynomials: a ring that `evaluate` maps onto the integers; compared coefficient by coefficient;
printed readably."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler._common.polynomial import (
    ROUNDINGS,
    S8,
    S16,
    S32,
    TOKENS,
    ZERO,
    B,
    Polynomial,
    R,
    S,
    constant,
    product,
    total,
    undominated,
)

EXPONENTS = st.tuples(*[st.integers(0, 3)] * 6)
POLYNOMIALS = st.dictionaries(EXPONENTS, st.integers(-(10**6), 10**6), max_size=6).map(Polynomial)
POINTS = st.tuples(st.integers(0, 40), st.integers(0, 5000), st.integers(0, 300))
ONE = constant(1)


@given(POLYNOMIALS, POLYNOMIALS, POLYNOMIALS)
def test_ring(p, q, r):
    assert p + q == q + p
    assert (p + q) + r == p + (q + r)
    assert p + ZERO == p == p - ZERO
    assert p - p == ZERO
    assert p * q == q * p
    assert (p * q) * r == p * (q * r)
    assert p * ONE == p
    assert p * ZERO == ZERO
    assert p * (q + r) == p * q + p * r
    assert p - q == p + q * -1


@given(POLYNOMIALS, POLYNOMIALS, POINTS, st.integers(-50, 50))
def test_evaluation_is_a_homomorphism(p, q, at, number):
    assert (p + q).evaluate(*at) == p.evaluate(*at) + q.evaluate(*at)
    assert (p - q).evaluate(*at) == p.evaluate(*at) - q.evaluate(*at)
    assert (p * q).evaluate(*at) == p.evaluate(*at) * q.evaluate(*at)
    assert (p + number).evaluate(*at) == p.evaluate(*at) + number == (number + p).evaluate(*at)
    assert (p * number).evaluate(*at) == p.evaluate(*at) * number == (number * p).evaluate(*at)
    assert constant(number).evaluate(*at) == number


@given(POINTS)
def test_symbols(at):
    batch, seq, rank = at
    told = (B.evaluate(*at), S.evaluate(*at), R.evaluate(*at), TOKENS.evaluate(*at))
    assert told == (batch, seq, rank, batch * seq)
    for symbol, multiple in ((S32, 32), (S16, 16), (S8, 8)):
        padded = symbol.evaluate(*at)
        assert padded % multiple == 0
        assert seq <= padded < seq + multiple


@given(st.lists(POLYNOMIALS, max_size=5), POINTS)
def test_sums_and_products_of_many(many, at):
    assert total(many).evaluate(*at) == sum(p.evaluate(*at) for p in many)
    assert product(many).evaluate(*at) == prod(p.evaluate(*at) for p in many)


@given(POLYNOMIALS, st.integers(1, 1000))
def test_exact_division(p, divisor):
    assert (p * divisor) // divisor == p
    with pytest.raises(AssertionError):
        (p * divisor * 2 + 1) // (divisor * 2)


@given(st.lists(POLYNOMIALS, min_size=1, max_size=6), POINTS)
def test_undominated_candidates_have_the_same_maximum(many, at):
    kept = undominated(many)
    assert max(p.evaluate(*at) for p in kept) == max(p.evaluate(*at) for p in many)
    assert len(kept) <= len(many)


@given(
    st.lists(st.dictionaries(EXPONENTS, st.integers(-2, 2), max_size=2).map(Polynomial), max_size=8)
)
def test_undominated_candidates_keep_their_order_and_of_equals_the_first_stays(many):
    def dominates(q: Polynomial, p: Polynomial) -> bool:
        return all(q.terms.get(e, 0) >= p.terms.get(e, 0) for e in {*q.terms, *p.terms})

    def is_ruled_out(number: int) -> bool:
        p = many[number]
        return any(dominates(q, p) and (p != q or i < number) for i, q in enumerate(many))

    assert list(map(id, undominated(many))) == [
        id(p) for number, p in enumerate(many) if not is_ruled_out(number)
    ]


@given(POLYNOMIALS, POLYNOMIALS)
def test_equality_and_hash_ignore_zero_terms(p, q):
    padded = Polynomial({**p.terms, (9, 9, 9, 9, 9, 9): 0})
    assert p == padded
    assert hash(p) == hash(padded)
    assert (p == q) == (p - q == ZERO)
    assert p != "p"


@given(POLYNOMIALS, POINTS)
def test_text_is_the_polynomial(p, at):
    """Read as Python it has the same value."""
    batch, seq, rank = at
    names = {"b": batch, "s": seq, "r": rank, **{f"s{n}": -(-seq // n) * n for n in ROUNDINGS}}
    assert eval(str(p).replace("^", "**"), {}, names) == p.evaluate(*at)


@pytest.mark.parametrize(
    ("polynomial", "text"),
    [
        (ZERO, "0"),
        (constant(8), "8"),
        (B * S * 4096 + S * 512 + 8, "4096*b*s + 512*s + 8"),
        (B * S * S - R * 3, "b*s^2 - 3*r"),
        (B * S32 * 4, "4*b*s32"),
        (B * S * S16 * 4, "4*b*s*s16"),
        (S * S8 * 2, "2*s*s8"),
        (ONE - B, "-1*b + 1"),
    ],
)
def test_text(polynomial, text):
    assert str(polynomial) == text == repr(polynomial)


def test_values_do_not_change():
    p = B * 2
    _ = p + S, p * R, p - 1
    assert p == B * 2
