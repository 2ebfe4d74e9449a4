"""Intervals over seeds are SciPy's, and one seed proves nothing."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from tst_titan.compare.numbers import Number
from tst_titan.compare.seeds import PAIRED, difference_over_seeds
from tst_titan.compare.sentences import seeds_statement

REFERENCE = {1: 3.21, 2: 3.25, 3: 3.19, 4: 3.22}
RUN = {1: 3.14, 2: 3.19, 3: 3.12, 4: 3.16}


def compared(
    reference: dict[int, float], run: dict[int, float], **keys: Any
) -> tuple[Number, Number, Number]:
    a, b = ({seed: Number(loss, "nats/token") for seed, loss in side.items()} for side in (reference, run))
    return difference_over_seeds(a, b, **keys)


def test_paired_interval_is_scipys() -> None:
    _, run, found = compared(REFERENCE, RUN)
    expected = stats.ttest_rel(list(RUN.values()), list(REFERENCE.values())).confidence_interval(0.95)
    assert found.note == PAIRED and run.n == 4
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.excludes_zero is True
    said = seeds_statement(found, (4, 4), 0.95)
    assert "outside the noise" in said and "paired over 4 seeds" in said


def test_unpaired_interval_is_scipys_welch() -> None:
    run = {11: 3.14, 12: 3.24, 13: 3.10}
    *_, found = compared(REFERENCE, run, confidence=0.9)
    test = stats.ttest_ind(list(run.values()), list(REFERENCE.values()), equal_var=False)
    expected = test.confidence_interval(0.9)
    assert found.note != PAIRED
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.excludes_zero is False
    assert "4 against 3 seeds, unpaired): within the noise" in seeds_statement(found, (4, 3), 0.9)


def test_pairing_uses_common_seeds_only_and_can_be_switched_off() -> None:
    reference, _, found = compared(REFERENCE | {9: 10.0}, RUN | {8: 0.0})
    assert found.note == PAIRED and reference.n == 4
    assert found.number == pytest.approx(sum(RUN.values()) / 4 - sum(REFERENCE.values()) / 4)
    assert compared(REFERENCE, RUN, same_text=False)[2].note != PAIRED


def test_one_seed_says_nothing_about_noise() -> None:
    *_, found = compared({1: 3.2}, {1: 3.1})
    assert found.number == pytest.approx(-0.1)
    assert found.low is None and found.high is None and found.excludes_zero is None
    assert "cannot be told from the noise over seeds" in seeds_statement(found, (1, 1), 0.95)
    assert compared({1: 3.2, 2: 3.3}, {1: 3.1})[2].excludes_zero is None


def test_interval_of_each_mean() -> None:
    reference, *_ = compared(REFERENCE, RUN)
    values = list(REFERENCE.values())
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert (reference.low, reference.high) == pytest.approx((low, high))
