"""The ledger: what it refuses, how it judges, and what it leaves behind."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from genbook import ledger
from genbook.ledger import ClaimsError, Ledger

CLAIM = {
    "statement": '"A statement"',
    "source": '"Table 1"',
    "published": "10.0",
    "standing": '"primary"',
    "unit": '"nats"',
    "protocol": '"one seed"',
    "rule": '{ kind = "band", value = 10.0, within = 2.0 }',
    "why": '"a reason"',
    "from": '"smoke"',
}


def claim(**changes: str | None) -> str:
    """The body of a claim; a change of None leaves the field out."""
    fields = {**CLAIM, **changes}
    return "\n".join(f"{k} = {v}" for k, v in fields.items() if v is not None)


def write(root: Path, body: str, head: str = 'title = "Toy"') -> Path:
    (root / "chapters").mkdir(exist_ok=True)
    text = f"[chapter]\n{head}\n{body}\n"
    (root / "chapters" / "toy.claims.toml").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def no_run_folder(monkeypatch):
    monkeypatch.delenv("GENBOOK_RUN_DIR", raising=False)


@pytest.fixture
def toy(tmp_path) -> Path:
    order = '{ kind = "ordering", order = "increasing", margin = 0.5 }'
    return write(
        tmp_path,
        f"[claims.fig2-bound]\n{claim()}\n"
        + "[claims.fig3-order]\n"
        + claim(published='"figure"', rule=order, **{"from": '"book"'}),
    )


def test_a_claims_file_is_read_as_it_is_written(tmp_path):
    head = 'title = "Toy"\ndata = ["mnist"]\noptional_data = ["frey_face"]'
    book = ledger.read_claims("toy", write(tmp_path, f"[claims.a]\n{claim()}", head))
    assert (book.title, book.data, book.optional_data) == ("Toy", ("mnist",), ("frey_face",))
    found = book["a"]
    assert (found.id, found.chapter, found.published) == ("a", "toy", 10.0)
    assert (found.standing, found.from_profile) == ("primary", "smoke")
    assert found.rule == {"kind": "band", "value": 10.0, "within": 2.0}


WRONG = {
    "unknown field": (
        {"protokol": '"x"'},
        r"claim 'a' of toy: unknown field 'protokol'; did you mean 'protocol'\?",
    ),
    "missing field": ({"why": None}, "claim 'a' of toy: the field 'why' is missing"),
    "wrong type": ({"unit": "3"}, "claim 'a' of toy: 'unit' has the wrong type, 3"),
    "a truth value": ({"published": "true"}, "'published' has the wrong type, True"),
    "standing": ({"standing": '"hearsay"'}, "standing 'hearsay' is not one of"),
    "published but not standing": (
        {"standing": '"none"'},
        "'published' and 'standing' must both be \"none\" or neither",
    ),
    "standing but not published": (
        {"published": '"none"'},
        "'published' and 'standing' must both be \"none\" or neither",
    ),
    "profile": ({"from": '"overnight"'}, "from = 'overnight' is not one of"),
    "rule kind": (
        {"rule": '{ kind = "at_leas", value = 1 }'},
        r"claim 'a' of toy: rule kind 'at_leas' is unknown; did you mean 'at_least'\?",
    ),
    "no rule kind": ({"rule": "{ value = 1 }"}, "rule kind None is unknown"),
    "rule field missing": (
        {"rule": '{ kind = "band", value = 10.0 }'},
        r"a rule of kind 'band' has \['kind', 'value', 'within'\]; check: within",
    ),
    "rule field too many": (
        {"rule": '{ kind = "at_least", value = 1, margin = 2 }'},
        "a rule of kind 'at_least' has .*; check: margin",
    ),
    "rule value a string": (
        {"rule": '{ kind = "at_most", value = "1" }'},
        "the rule's 'value' is not a number: '1'",
    ),
    "rule value a truth value": (
        {"rule": '{ kind = "at_most", value = true }'},
        "the rule's 'value' is not a number: True",
    ),
    "order": (
        {"rule": '{ kind = "ordering", order = "up", margin = 0 }'},
        "order 'up' is neither increasing nor decreasing",
    ),
    "negative within": (
        {"rule": '{ kind = "band", value = 10.0, within = -1 }'},
        "the rule's 'within' is negative",
    ),
    "negative tolerance": (
        {"rule": '{ kind = "exact", target = 10.0, tolerance = -1 }'},
        "the rule's 'tolerance' is negative",
    ),
    "negative margin": (
        {"rule": '{ kind = "ordering", order = "increasing", margin = -1 }'},
        "the rule's 'margin' is negative",
    ),
    "band around another value": (
        {"rule": '{ kind = "band", value = 11.0, within = 2 }'},
        "the rule judges against 11 but the published value is 10",
    ),
    "target is another value": (
        {"rule": '{ kind = "exact", target = 10.5, tolerance = 2 }'},
        "the rule judges against 10.5 but the published value is 10",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_claim_is_refused_with_its_reason(case, tmp_path):
    changes, message = WRONG[case]
    write(tmp_path, f"[claims.a]\n{claim(**changes)}")
    with pytest.raises(ClaimsError, match=message):
        ledger.read_claims("toy", tmp_path)


def test_a_wrong_file_is_refused_with_its_reason(tmp_path):
    with pytest.raises(ClaimsError, match=r"toy: chapters/toy.claims.toml is missing"):
        ledger.read_claims("toy", tmp_path)
    with pytest.raises(ClaimsError, match=r"\[chapter\] needs a title"):
        ledger.read_claims("toy", write(tmp_path, "", head=""))
    with pytest.raises(ClaimsError, match=r"chapters/toy.claims.toml: .*line 3"):
        ledger.read_claims("toy", write(tmp_path, "[claims.a\n"))
    with pytest.raises(ClaimsError, match=r"unknown name 'claim'; did you mean 'claims'\?"):
        ledger.read_claims("toy", write(tmp_path, f"[claim.a]\n{claim()}"))
    head = 'title = "Toy"\noptional = ["frey_face"]'
    with pytest.raises(ClaimsError, match=r"\[chapter\] unknown name 'optional'; did you mean 'op"):
        ledger.read_claims("toy", write(tmp_path, "", head))


BAND = {"kind": "band", "value": 10.0, "within": 2.0}
EXACT = {"kind": "exact", "target": 10.0, "tolerance": 0.25}
LEAST, MOST = {"kind": "at_least", "value": -1.0}, {"kind": "at_most", "value": -1.0}
RISE = {"kind": "ordering", "order": "increasing", "margin": 0.5}
FALL = {"kind": "ordering", "order": "decreasing", "margin": 0.5}
ANY_RISE = {"kind": "ordering", "order": "increasing", "margin": 0.0}


def one(rule: dict, start: str = "smoke") -> ledger.Claim:
    return ledger.Claim("a", "toy", "s", "t", "n", "primary", "u", "p", rule, "w", start)


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        (BAND, [8.0, 10.0, 12.0], [7.99, 12.01]),
        (EXACT, [9.75, 10.0, 10.25], [9.74, 10.26]),
        (LEAST, [-1.0, 5.0], [-1.01]),
        (MOST, [-1.0, -5.0], [-0.99]),
        (RISE, [[1.0, 1.5, 9.0]], [[1.0, 1.49, 9.0], [1.0, 9.0, 9.25], [2.0, 1.0], [1.0, 1.0]]),
        (FALL, [[9.0, 1.5, 1.0]], [[9.0, 1.49, 1.0], [9.25, 9.0, 1.0], [1.0, 2.0], [1.0, 1.0]]),
        (ANY_RISE, [[1.0, 1.001]], [[1.0, 1.0], [1.0, 0.999], [1.0, 2.0, 2.0]]),
    ],
)
def test_every_rule_holds_up_to_its_edge_and_no_further(rule, inside, outside):
    good = "within band" if rule is BAND else "reproduced"
    assert [one(rule).verdict(x, "smoke") for x in inside] == [good] * len(inside)
    assert [one(rule).verdict(x, "paper") for x in outside] == ["missed"] * len(outside)


@pytest.mark.parametrize("rule", [BAND, EXACT, LEAST, MOST, RISE, FALL])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_missed(rule, bad):
    ours = [1.0, bad] if rule["kind"] == "ordering" else bad
    assert one(rule).verdict(ours, "book") == "missed"


def test_a_smaller_profile_than_the_claim_s_never_judges():
    late = one(LEAST, "long")
    verdicts = [late.verdict(0.0, profile) for profile in ledger.PROFILES]
    assert verdicts == ["not run at this scale"] * 2 + ["reproduced"] * 2
    assert late.verdict(-9.0, "book") == "not run at this scale"
    assert one(LEAST).verdict(None, "paper") == "not run at this scale"
    assert set(verdicts) < set(ledger.VERDICTS)


def test_the_rule_in_words():
    words = [one(rule).band() for rule in (EXACT, BAND, LEAST, MOST, RISE, ANY_RISE)]
    assert words == [
        "= 10 to 0.25", "10 ± 2", "≥ -1", "≤ -1", "increasing by 0.5 or more", "increasing",
    ]  # fmt: skip


@dataclass(frozen=True)
class Settings:
    batch: int = 100
    steps: tuple[int, ...] = (1, 2)


def test_the_record_of_a_run_can_be_read_again(toy, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("GENBOOK_RUN_DIR", str(tmp_path / "run"))
    claims = Ledger("toy", profile="book", seed=3, root=toy)
    claims.settings(Settings())
    claims.judge("fig2-bound", ours=11.25, spread=0.5)
    claims.judge("fig3-order", ours=(1, 2, 3.5))
    claims.value("images-per-second", 10500, unit="images/s", format=",.0f")
    claims.series("curve", samples=[1, 2], bound=[-3.0, -2.5])
    claims.close()

    record = json.loads((tmp_path / "run" / "record.json").read_text(encoding="utf-8"))
    assert record == {
        "chapter": "toy",
        "profile": "book",
        "seed": 3,
        "settings": {"batch": 100, "steps": [1, 2]},
        "claims": {
            "fig2-bound": {"ours": 11.25, "spread": 0.5, "verdict": "within band"},
            "fig3-order": {"ours": [1.0, 2.0, 3.5], "spread": None, "verdict": "reproduced"},
        },
        "values": {"images-per-second": {"value": 10500.0, "unit": "images/s", "format": ",.0f"}},
        "series": {"curve": {"samples": [1.0, 2.0], "bound": [-3.0, -2.5]}},
    }
    assert capsys.readouterr().out.splitlines() == [
        "within band: A statement",
        "  ours 11.25 ± 0.5  rule 10 ± 2",
        "reproduced: A statement",
        "  ours 1, 2, 3.5  rule increasing by 0.5 or more",
        "images-per-second = 10,500 images/s",
    ]


def test_scalars_of_torch_become_numbers_of_the_record(toy):
    claims = Ledger("toy", profile="smoke", root=toy)
    claims.judge("fig2-bound", ours=torch.tensor(9.5), spread=torch.tensor(0.5))
    claims.judge("fig3-order", ours=[torch.tensor(1.0), torch.tensor(2.0)])
    claims.close()
    record = json.loads((claims.folder / "record.json").read_text())
    assert record["claims"]["fig2-bound"] == {
        "ours": 9.5, "spread": 0.5, "verdict": "within band",
    }  # fmt: skip
    assert record["claims"]["fig3-order"]["verdict"] == "not run at this scale"


def test_a_missed_nan_can_still_be_written_and_read(toy):
    claims = Ledger("toy", profile="book", root=toy)
    claims.judge("fig2-bound", ours=math.nan)
    claims.judge("fig3-order", ours=None)
    claims.close()
    found = json.loads((claims.folder / "record.json").read_text())["claims"]
    assert found["fig2-bound"]["verdict"] == "missed"
    assert found["fig3-order"] == {
        "ours": None, "spread": None, "verdict": "not run at this scale",
    }  # fmt: skip


def test_without_a_run_folder_the_record_goes_to_scratch(toy):
    claims = Ledger("toy", profile="smoke", root=toy)
    assert claims.folder == toy / "_build" / "scratch" / "toy-smoke"


def test_what_a_chapter_may_not_do(toy):
    with pytest.raises(ClaimsError, match=r"unknown profile 'smok'; did you mean 'smoke'\?"):
        Ledger("toy", profile="smok", root=toy)
    claims = Ledger("toy", profile="book", root=toy)
    with pytest.raises(
        ClaimsError,
        match=r"toy: no claim 'fig2-bond' in chapters/toy.claims.toml; "
        r"did you mean 'fig2-bound'\?",
    ):
        claims.judge("fig2-bond", ours=1.0)
    with pytest.raises(ClaimsError, match="known: fig2-bound, fig3-order"):
        claims.judge("zzz", ours=1.0)
    with pytest.raises(ClaimsError, match=r"'fig2-bound': a rule of kind 'band' got \[1.0, 2.0\]"):
        claims.judge("fig2-bound", ours=[1.0, 2.0])
    with pytest.raises(ClaimsError, match=r"'fig3-order': a rule of kind 'ordering' got 1.0"):
        claims.judge("fig3-order", ours=1.0)
    with pytest.raises(ClaimsError, match="'fig3-order': an ordering needs two numbers or more"):
        claims.judge("fig3-order", ours=[1.0])
    claims.judge("fig2-bound", ours=10.0)
    with pytest.raises(ClaimsError, match="toy: claim 'fig2-bound' is judged twice"):
        claims.judge("fig2-bound", ours=10.0)
    claims.value("speed", 1.0, unit="", format=".1f")
    for name in ("speed", "fig2-bound"):
        with pytest.raises(ClaimsError, match=f"toy: the name '{name}' is used twice"):
            claims.value(name, 2.0, unit="", format=".1f")
    claims.series("curve", x=[1.0], y=[2.0])
    for name, columns in (("curve", {"x": [1.0]}), ("odd", {"x": [1.0], "y": []}), ("none", {})):
        with pytest.raises(ClaimsError, match=f"series '{name}': used twice, or its columns"):
            claims.series(name, **columns)
    claims.sheet("rows", "png")
    assert claims.record["sheets"] == {"rows": "png"}
    with pytest.raises(ClaimsError, match="sheet 'rows' is recorded twice"):
        claims.sheet("rows", "png")
    with pytest.raises(ClaimsError, match=r"toy: never judged: fig3-order$"):
        claims.close()
    assert not (claims.folder / "record.json").exists()


def test_a_record_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "record.json"
    ledger.write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        ledger.write_json(target, {"a": object()})

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        ledger.write_json(target, {"a": 2})
    assert json.loads(target.read_text()) == {"a": 1}


def test_what_a_notebook_is_given_can_be_compared_with_the_record():
    shown = ledger.Judged("missed: 1 < 2", {"id": "a", "ours": 1.0})
    bundle = shown._repr_mimebundle_()
    assert repr(shown) == bundle["text/plain"] == "missed: 1 < 2"
    assert bundle["text/html"] == '<p class="gb-judged">missed: 1 &lt; 2</p>'
    assert bundle["application/vnd.genbook.claim+json"] == {"id": "a", "ours": 1.0}


def record_of(profile: str, root: Path, ours: float) -> Path:
    record = {"chapter": "toy", "profile": profile, "claims": {"fig2-bound": {"ours": ours}}}
    content: dict = {"chapter": "toy", "profile": profile, "runs": [{"seed": 0, "record": record}]}
    content["sha256"] = ledger.recorded_digest(content)
    path = root / "book" / "recorded" / f"toy.{profile}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_json(path, content)
    return path


def test_a_chapter_sees_the_recorded_runs_of_larger_profiles_only(toy):
    for profile, ours in (("paper", 3.0), ("book", 1.0), ("long", 2.0)):
        record_of(profile, toy, ours)
    seen = Ledger("toy", profile="book", root=toy).recorded()
    assert list(seen) == ["long", "paper"]
    assert seen["long"][0]["claims"]["fig2-bound"]["ours"] == 2.0
    assert Ledger("toy", profile="paper", root=toy).recorded() == {}


def test_a_recorded_number_that_was_changed_by_hand_is_refused(toy):
    path = record_of("long", toy, 2.0)
    path.write_text(path.read_text().replace("2.0", "2.5"))
    with pytest.raises(ClaimsError, match=r"book/recorded/toy.long.json was changed after"):
        Ledger("toy", profile="book", root=toy).recorded()


def test_the_claims_of_every_chapter_of_the_book_are_sound():
    names = [path.name.removesuffix(".claims.toml") for path in
             sorted((ledger.ROOT / "chapters").glob("*.claims.toml"))]  # fmt: skip
    assert names
    for name in names:
        book = ledger.read_claims(name)
        assert book.claims, name
        assert all(c.why and c.protocol and c.source for c in book.claims.values()), name
