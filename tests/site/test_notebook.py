"""A chapter's page is today's prose with the run's outputs, and nothing else."""

import nbformat
import pytest

from genbook import ledger, plotting, runs
from genbook.site import notebook, stage
from genbook.site.errors import SiteError
from genbook.site.lookup import Results
from genbook.site.results import collect


@pytest.fixture
def executed(at_toy):
    return stage.fresh_runs("smoke")["toy"].notebook


@pytest.fixture
def source(at_toy, tmp_path):
    """A copy of the chapter that a test may edit."""
    path = tmp_path / "toy.py"
    path.write_bytes((at_toy / "chapters" / "toy.py").read_bytes())
    return path


@pytest.fixture
def damaged(executed, tmp_path):
    """The executed notebook after a change to its cells."""

    def change(edit):
        made = nbformat.read(executed, as_version=4)
        edit([cell for cell in made.cells if cell.cell_type == "code"])
        path = tmp_path / "damaged.ipynb"
        nbformat.write(made, path)
        return path

    return change


def texts(page, kind):
    return [cell.source for cell in page.cells if cell.cell_type == kind]


def test_prose_is_todays_and_outputs_are_the_runs(executed, source, edit):
    edit(source, "The estimator", "An estimator that was renamed today")
    page = notebook.page("toy", source, executed)
    assert any("renamed today" in text for text in texts(page, "markdown"))
    shown = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert any(output.get("text", "").startswith("mean ") for output in shown)
    assert not any("vnd.genbook" in mime for o in shown for mime in o.get("data", {}))


def test_the_injected_parameters_stand_below_the_parameters(executed, source):
    code = texts(notebook.page("toy", source, executed), "code")
    at = next(i for i, text in enumerate(code) if text.startswith('profile = "smoke"'))
    assert code[at + 1].startswith("# Parameters")


def test_two_stagings_are_the_same_bytes(executed, source):
    pages = [nbformat.writes(notebook.page("toy", source, executed)) for _ in range(2)]
    assert pages[0] == pages[1]


def test_code_without_a_run_is_refused(executed, source, edit):
    edit(source, "range(4000)", "range(4001)")
    with pytest.raises(SiteError, match=r"no output in the run for this cell[\s\S]*range\(4001\)"):
        notebook.page("toy", source, executed)


def test_a_run_with_more_cells_than_the_chapter_is_refused(executed, source, edit):
    edit(source, "# %%\nclaims.close()\n", "")
    with pytest.raises(SiteError, match="a cell that the chapter lacks"):
        notebook.page("toy", source, executed)


def test_stderr_is_refused(damaged, source):
    def write(code):
        code[3].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="a warning"))

    with pytest.raises(SiteError, match="wrote to stderr"):
        notebook.page("toy", source, damaged(write))


def test_a_lost_output_is_refused(damaged, source):
    def lose(code):
        code[3].outputs = []

    with pytest.raises(SiteError, match="should show something"):
        notebook.page("toy", source, damaged(lose))


def test_a_named_value_is_left_to_the_prose_and_a_judged_claim_is_shown(damaged, source):
    row = {"value": 3.0, "unit": "m/s", "format": ".1f"}
    judged = {"ours": 1.0, "spread": None, "verdict": "reproduced"}

    def add(code):
        for name, line, content in (("v", "v = 3.0 m/s", row), ("c", "reproduced: c", judged)):
            data = {"text/plain": line, ledger.BUNDLE_MIME: {"id": name, **content}}
            code[3].outputs.append(nbformat.v4.new_output("display_data", data=data))

    text = nbformat.writes(notebook.page("toy", source, damaged(add)))
    assert "reproduced: c" in text
    assert "v = 3.0 m/s" not in text


def test_a_failed_cell_is_refused(damaged, source):
    def fail(code):
        code[3].outputs = [nbformat.v4.new_output("error", ename="E", evalue="boom", traceback=[])]

    with pytest.raises(SiteError, match="boom"):
        notebook.page("toy", source, damaged(fail))


def test_a_chapter_needs_a_title(executed, source, edit):
    edit(source, "# # A toy", "# A toy")
    with pytest.raises(SiteError, match="must start with '# '"):
        notebook.page("toy", source, executed)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("x = 1", False),
        ("x", True),
        ("model.bound, x", True),
        ("print(x)", True),
        ("with quiet():\n    print(x)", True),
        ("if x:\n    print(x)", False),
        ("for i in x:\n    print(i)", False),
        ("def f():\n    print(1)", False),
        ("plotting.show(draw, name='a')", True),
        ("claims.judge('a', ours=1.0)", True),
        ("claims.close()", False),
        ("train(model)", False),
        ('"""A note."""', False),
        ("", False),
    ],
)
def test_which_cells_must_show_something(code, expected):
    assert notebook.expects_output(code) is expected


def test_the_download_has_numbers_instead_of_roles(executed, source, at_toy):
    results = Results(collect("smoke", stage.fresh_runs("smoke")))
    copy = notebook.for_download(notebook.page("toy", source, executed), "toy", results)
    prose = "\n".join(texts(copy, "markdown"))
    mean = results.look_up("mean-of-draws", "toy").text
    assert f"4,000 draws with the mean\n{mean}" in prose
    assert "{result}" not in prose
    assert "{ledger}" not in prose
    assert "{run}" not in prose
    html = "".join(o.data.get("text/html", "") for c in copy.cells for o in c.get("outputs", [])
                   if "data" in o)  # fmt: skip
    assert "only-light" in html
    assert "only-dark" not in html
    nbformat.validate(copy)


def test_the_download_has_descriptions_instead_of_pictures(executed, source, at_toy):
    page = notebook.page("toy", source, executed)
    shown = plotting.Shown({"light": b"<svg/>", "dark": b"<svg/>"}, alt="A < B", caption="Letters.")
    output = nbformat.v4.new_output("display_data", {"text/html": shown._repr_html_()})
    next(cell for cell in page.cells if cell.cell_type == "code").outputs = [output]
    results = Results(collect("smoke", stage.fresh_runs("smoke")))
    copy = notebook.for_download(page, "toy", results)
    (html,) = next(c for c in copy.cells if c.cell_type == "code").outputs[0].data.values()
    assert html.count("[Picture: A &lt; B]") == 1  # once, not once a theme
    assert "Letters." in html
    assert "<img" not in html


def test_the_site_and_the_ledger_command_choose_the_same_run(at_toy, monkeypatch):
    monkeypatch.setenv("GENBOOK_PROFILE", "smoke")
    results = Results(collect("smoke", stage.fresh_runs("smoke")))
    ours = {j.id: (j.result["ours"], j.result["verdict"]) for j in results.judgements("toy")}
    theirs = {row["id"]: (row["ours"], row["verdict"]) for row in runs.ledger_rows(["toy"])}
    assert ours == theirs
