"""How numbers and tables read, against texts worked out by hand."""

from __future__ import annotations

import math

import pytest

from tst_titan.errors import UserError
from tst_titan.text import (
    GAP,
    amount,
    clock,
    duration,
    hours_alone,
    in_bytes,
    interval_text,
    parse_amount,
    power_of_ten,
    signed_text,
    text_table,
    value_text,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (812, "812"), (999.6, "1k"), (7_500_000, "7.5M"), (41.96e9, "42B"), (1.05e12, "1.05T"),
     (-2e9, "-2B"), (3.2e19, "32,000P")],
)  # fmt: skip
def test_amounts_have_three_digits_and_a_letter(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize("count", [812, 7.5e6, 42e9, 1.05e12, 2e15])
def test_a_written_amount_is_read_back(count: float) -> None:
    assert parse_amount(amount(count)) == pytest.approx(count)
    assert parse_amount(f" {amount(count).lower()} ") == pytest.approx(count)


@pytest.mark.parametrize("text", ["", "M", "-3M", "0", "nan", "inf", "three", "1.3 GB"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a positive count; write"):
        parse_amount(text)


def test_bytes_hours_and_clocks() -> None:
    assert [in_bytes(n) for n in (12, 999, 25.7e9, 1e12)] == ["12 B", "999 B", "25.7 GB", "1 TB"]
    assert [duration(h) for h in (0.0139, 0.5, 3.25, 1234.5)] == ["50.0 s", "30.0 min", "3.25 h", "1,234 h"]
    assert [hours_alone(h) for h in (0.1441, 99.94, 12_000)] == ["0.144", "99.9", "12,000"]
    assert [clock(s) for s in (59, 3600, 200_000)] == ["0:59", "1:00:00", "2 d 07:33"]


def test_powers_of_ten() -> None:
    assert power_of_ten(6.144e12) == "6.14 × 10¹²"
    assert power_of_ten(2e18, digits=2) == "2 × 10¹⁸"
    assert power_of_ten(0.00012) == "1.20 × 10⁻⁴"
    assert [power_of_ten(x) for x in (0, 0.25, 1234)] == ["0", "0.25", "1,234"]


def test_a_unit_decides_the_digits() -> None:
    assert value_text(2.93456, "nats/token") == "2.9346"
    assert value_text(20_000, "steps") == "20,000"
    assert value_text(1.8, "times") == "1.80×"
    assert value_text(3.14159, "furlongs") == "3.142 furlongs"
    assert value_text(None, "steps") == value_text(math.nan, "steps") == GAP
    assert signed_text(-0.085, "nats/token") == "−0.0850" and signed_text(0.0, "%") == "+0.0"
    assert signed_text(None, "%") == GAP
    assert interval_text(2.93, 2.95, "nats/token") == "2.9300 to 2.9500"
    assert interval_text(None, 3, "") == f"{GAP} to 3.00" and interval_text(None, None, "") == ""


def test_a_table_aligns_words_left_and_numbers_right() -> None:
    rows = [["a", "1,234", "3.5"], ["  longer", "2", "10.25"]]
    assert text_table(["run", "steps", "loss"], rows).splitlines() == [
        "run         steps    loss",
        "--------  -------  ------",
        "a           1,234     3.5",
        "  longer        2   10.25",
    ]
    assert text_table(["run", "steps"], []).splitlines()[0].split() == ["run", "steps"]


def test_columns_that_do_not_fit_go_below_with_the_first_one_again():
    wide = text_table(
        ["run", "steps", "loss"], [["tst", "1,000", "2.5"], ["baseline", "20", "3.25"]], width=24
    )
    first, second = wide.split("\n\n")
    assert [line.split() for line in first.splitlines()[2:]] == [["tst", "1,000"], ["baseline", "20"]]
    assert [line.split() for line in second.splitlines()[2:]] == [["tst", "2.5"], ["baseline", "3.25"]]
    assert max(map(len, wide.splitlines())) <= 24


def test_a_row_without_a_word_in_the_columns_below_is_left_out_there():
    wide = text_table(["run", "steps", "loss"], [["tst", "1,000", ""], ["baseline", "20", "3.25"]], width=24)
    first, second = wide.split("\n\n")
    assert "tst" in first and second.split() == ["run", "loss", "--------", "------", "baseline", "3.25"]
