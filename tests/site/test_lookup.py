"""What a page may ask for, and what it is told when there is no such number."""

import json

import pytest

from genbook.site import facts
from genbook.site.lookup import Results, UnknownResultError

CLAIM = {
    "statement": "s", "source": "Table 1", "published": 86.76, "standing": "quoted", "unit": "nats",
    "protocol": "p", "band": "≤ 90", "why": "w", "from": "long",
}  # fmt: skip


def a_run(profile, seeds, ours, verdict, spread=None, recorded=True):
    return {
        "profile": profile, "seeds": seeds, "recorded": recorded, "changed": [],
        "claims": {
            "fig2.nz20": {"ours": ours, "spread": spread, "verdict": verdict},
            "toy": {"ours": None, "spread": None, "verdict": "not run at this scale"},
        },
        "values": {
            "images-per-second": {
                "value": 10512.3, "spread": spread, "unit": "images/s", "format": ",.0f",
            },
        },
        "commits": ["0123456789abcdef"], "dirty": False, "machine": "a processor", "device": "cpu",
        "seconds": 432.0, "versions": "torch 2", "command": "genbook run aevb",
    }  # fmt: skip


@pytest.fixture
def results():
    return Results(
        {
            "profile": "book",
            "chapters": {
                "aevb": {
                    "title": "AEVB",
                    "claims": {
                        "fig2.nz20": CLAIM,
                        "toy": CLAIM | {"published": "none", "standing": "none"},
                    },
                    "runs": {
                        "long": a_run("long", [0, 1, 2], 85.5, "reproduced", 0.3),
                        "book": a_run("book", [0], 95.25, "not run at this scale", recorded=False),
                    },
                }
            },
        }
    )


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("fig2.nz20", "95.25"),
        ("aevb:fig2.nz20", "95.25"),
        ("fig2.nz20@long", "85.50 ± 0.30"),
        ("fig2.nz20@long.spread", "0.30"),
        ("fig2.nz20.published", "86.76"),
        ("fig2.nz20@long.verdict", "reproduced"),
        ("images-per-second", "10,512"),
        ("images-per-second@long", "10,512 ± 0.30"),
        ("toy", "—"),
    ],
)
def test_a_page_gets_the_number_by_its_format(results, asked, text):
    assert results.look_up(asked, "aevb").text == text


def test_a_setting_that_is_the_same_for_every_seed_has_no_spread_in_prose(results):
    results.chapters["aevb"]["runs"]["long"]["values"]["images-per-second"]["spread"] = 0.0
    assert results.look_up("images-per-second@long", "aevb").text == "10,512"


def test_a_printed_result_names_its_facts_and_the_place_where_they_stand(results):
    claim = results.look_up("fig2.nz20@long", "aevb")
    assert (claim.facts, claim.place) == ("aevb:fig2.nz20@long", "claim-aevb-fig2.nz20")
    value = results.look_up("aevb:images-per-second", None)
    assert (value.facts, value.place) == ("aevb:images-per-second", "run-aevb-book")


def test_the_facts_of_a_page_are_there_once(results):
    keys = ["aevb:fig2.nz20@long", "aevb:images-per-second@long", "aevb:fig2.nz20@long"]
    script = facts.of_page(results, "".join(facts.link("1", key, "#x") for key in keys))
    content = json.loads(script[script.index(">") + 1 : script.rindex("<")])
    assert set(content["results"]) == set(keys)
    assert content["results"][keys[0]] == {
        "run": "aevb@long", "what": "s", "published": "86.76, as quoted: Table 1",
        "ours": "85.50 ± 0.30 (nats)", "rule": "≤ 90", "why": "w", "verdict": "reproduced",
    }  # fmt: skip
    assert content["results"][keys[1]]["ours"] == "10,512 ± 0.30 images/s"
    assert content["runs"] == {
        "aevb@long": {
            "profile": "long, recorded", "seeds": "0, 1, 2", "commit": "0123456789",
            "hardware": "a processor (cpu)", "time": "7 min 12 s for each seed",
            "command": "genbook run aevb",
        }
    }  # fmt: skip
    assert facts.of_page(results, "<p>nothing printed</p>") == ""


@pytest.mark.parametrize(
    ("asked", "chapter", "message"),
    [
        ("fig2.nz2", "aevb", "did you mean 'fig2.nz20'?"),
        ("image-per-second", "aevb", "did you mean 'images-per-second'?"),
        ("aevbb:toy", None, "did you mean 'aevb'?"),
        ("toy", None, "needs its chapter"),
        ("toy@paper", "aevb", "no run of profile 'paper'; it has: long, book"),
        ("toy.spread", "aevb", "no spread"),
        ("toy.published", "aevb", "no published value"),
        ("images-per-second.verdict", "aevb", "only a claim has"),
        ("no name", "aevb", "not a result's name"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_right_one(results, asked, chapter, message):
    with pytest.raises(UnknownResultError, match=message.replace("?", r"\?")):
        results.look_up(asked, chapter)


def test_the_ledger_prefers_the_largest_run_that_could_judge(results):
    first, second = results.judgements("aevb")
    assert (first.run["profile"], first.result["verdict"]) == ("long", "reproduced")
    assert [run["profile"] for run, _ in first.others] == ["book"]
    # Nothing could judge the second: the fresh run stands there, with its verdict.
    assert second.run["profile"] == "book"
