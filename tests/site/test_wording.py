"""Numbers and times in words."""

import pytest

from genbook.site import wording


@pytest.mark.parametrize(
    ("value", "spec", "text"),
    [
        (-116.24, ".1f", "−116.2"),
        (10500.0, ",.0f", "10,500"),
        (1.2e-7, ".1e", "1.2 × 10⁻⁷"),
        (0.25, ".0%", "25%"),
    ],
)
def test_a_format_keeps_its_digits_and_gets_a_true_minus(value, spec, text):
    assert wording.formatted(value, spec).replace("\xa0", " ") == text


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (-116.2437, 0.31, "−116.24 ± 0.31"),
        (10512.3, 120.4, "10,512 ± 120"),
        (4.547e-13, None, "4.5 × 10⁻¹³"),
        (0.0, None, "0"),
        (123456.7, None, "123,457"),
        (1.0125, None, "1.012"),
        (2.5, 0.0, "2.5 ± 0"),
        ([1.0, 2.5], None, "1, 2.5"),
        ([1.0, 2.5], 0.02, "1, 2.5 ± 0.020"),
        (None, None, "—"),
        (float("inf"), None, "inf"),
    ],
)
def test_our_side_of_a_claim_shows_the_digits_that_its_spread_supports(value, spread, text):
    assert wording.ours(value, spread).replace("\xa0", " ") == text


def test_a_rule_has_its_numbers_set_like_all_others():
    assert wording.rule("= 0 to 1e-09") == "= 0 to 10⁻⁹"
    assert wording.rule("= -2.5 to 2e-05").replace("\xa0", " ") == "= −2.5 to 2 × 10⁻⁵"
    assert wording.rule("decreasing by 0.5 or more") == "decreasing by 0.5 or more"


def test_a_published_number_keeps_the_digits_that_were_printed():
    assert wording.published(86.76) == "86.76"
    assert wording.published(-1393) == "−1,393"
    assert wording.published("132 ± 1.8") == "132 ± 1.8"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.52, "1.5 s"), (59.6, "1 min 0 s"), (432.0, "7 min 12 s"), (3 * 3600 + 125, "3 h 2 min")],
)
def test_durations(seconds, text):
    assert wording.duration(seconds) == text


def test_seeds():
    assert wording.seeds([0]) == "seed 0"
    assert wording.seeds([0, 1, 2]) == "seeds 0, 1, 2"
