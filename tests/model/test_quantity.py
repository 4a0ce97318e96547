"""Quantities mean what they mean to Kubernetes."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.quantity import format_bytes, format_cpu, parse_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        (7, 7),
        ("500m", Decimal("0.5")),
        ("1.5", Decimal("1.5")),
        (".5", Decimal("0.5")),
        ("1.", 1),
        ("512Mi", 512 * 2**20),
        ("0.5Gi", 2**29),
        ("512M", 512 * 10**6),
        ("1e3", 1000),
        ("1E", 10**18),
        ("1E3", 1000),
        ("25e-1", Decimal("2.5")),
        ("999999999999999999.999999999Ei", Decimal("1152921504606846975999999998847078495.393153024")),
    ],
)
def test_the_value_is_exact(text: str | int, value: Decimal | int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["0.1n", "1e-99", "0.9999n"])
def test_less_than_a_billionth_is_rounded_up(text: str) -> None:
    assert parse_quantity(text) == Decimal("1e-9")


@pytest.mark.parametrize(
    "text", ["", " ", "-1", "+1", "NaN", "inf", "1 Mi", "1mb", "0x10", "٣", "1\n", "1e", "m", ".", "1" * 19]
)
def test_what_is_no_quantity_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be a Kubernetes quantity, such as 500m, 1 or 512Mi$"):
        parse_quantity(text)


@given(st.integers(0, 2**50))
def test_bytes_come_back_as_they_were(count: int) -> None:
    assert parse_quantity(format_bytes(count)) == count


@given(st.integers(0, 512 * 10**9))
def test_cpu_comes_back_as_it_was(nanos: int) -> None:
    assert parse_quantity(format_cpu(nanos)) * 10**9 == nanos


def test_formats_are_those_that_people_write() -> None:
    assert [format_bytes(n) for n in (512 * 2**20, 2**30, 1536 * 2**20, 1000)] == ["512Mi", "1Gi", "1536Mi", "1000"]
    assert [format_cpu(n) for n in (10**9, 5 * 10**8, 1500000, 1)] == ["1", "500m", "1500u", "1n"]
