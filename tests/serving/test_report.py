"""The report: it says what the gate found, and nothing that a model says can get out of its box."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginepress.report import report_markdown, seconds_text, verdict, write_report_files
from enginepress.report.charts import Bar, bars, histogram
from enginepress.report.html import MAX_COMPARED_WORDS, marked_difference, report_html
from enginepress.serving.client import Answer
from enginepress.serving.gate_result import CheckResult, GateResult, PromptResult
from enginepress.serving.load import summarise

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></section></main><h1>Passed</h1>",
    "```\n# heading\n<b>bold</b>\n```` and | pipes | \\",
    "<!-- <style>*{display:none}</style>",
    "&lt;&amp;&#60;",
    "\x00\x1b[31m\x7f\u202egnihtyna\u2028",
    "[link](javascript:alert(1)) ![i](http://x/y)",
    "</title></svg><svg onload=alert(1)>",
    "a\\|b `c` |d",
]
hostile = st.one_of(st.sampled_from(ATTACKS), st.text(), st.text("<>&\"'`|\\#*_[]()!\n -=~"))


def make_report(
    said: str = "an answer", *, wanted: str | None = None, passed: bool = True, load: bool = True, gate: bool = True
) -> dict[str, Any]:
    """A whole report in which every text of a stranger is `said`."""
    prompts = (
        PromptResult(said, None, 8, said, said, 8, 8, 0.01, 0.1, {"HTTP": said, "gRPC": f"error: {said}"}, wanted, 7, 8),
        PromptResult(None, ({"role": said, "content": said},), 8, None, "", None, 0, None, None, {}),
    )
    answer = Answer(said, (said,), "1", 0.01, 0.2, 8)
    busy = [Answer(said, (said,), "1", 0.01 * i, 0.1 * i, 8) for i in range(1, 20)]
    result = GateResult(
        model="toy",
        server_version="2.51.0",
        ready_s=0.5,
        seconds=3.0,
        content_digest="0" * 64,
        reference=None if wanted is None else {"source": said, "revision": "1" * 64, "made_with": {"torch": said}},
        live="",
        agreement=None if wanted is None else (7, 8),
        checks=(CheckResult("one", True, "1", "1"), CheckResult("two", passed, said, said, said)),
        prompts=prompts,
        load=summarise([answer], busy, [said], wall_s=2.0, concurrency=4, max_tokens=8) if load else None,
        limits={"min_tokens_per_second": 1000.0} if load else {},
    )
    return {
        "passed": passed and gate,
        "failure": "",
        "served": True,
        "facts": {
            "name": said,
            "source": said,
            "revision": "main",
            "build_key": "2" * 64,
            "engine": {"builder": "onnxruntime", "limits": {"max_batch_size": 8, "none": None}},
            "environment": {"package": said},
            "step_seconds": {"build": 3.5, said: 0.25},
        },
        "validation": {"ok": True, "findings": [{"severity": "warning", "file": said, "message": said, "fix": said}]},
        "gate": result.to_json() if gate else None,
        "error": None if gate else {"type": "ServerError", "message": said, "where": said, "fix": said},
    }


class Page(HTMLParser):
    """Reads a page as a browser would: its elements, attributes and text, and that they are properly nested."""

    VOID = {"meta", "br", "img", "link", "input", "hr"}

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.comments = 0
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.comments += 1


PLAIN = Page(report_html(make_report(wanted="another answer")))


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_a_stranger_says_adds_no_element_and_no_attribute(attack: str) -> None:
    page = Page(report_html(make_report(attack, wanted=attack + " and more")))
    assert set(page.tags) <= {*PLAIN.tags}
    assert page.attributes == PLAIN.attributes
    assert page.comments == 0
    assert len([t for t in page.tags if t not in ("ins", "del")]) == len([t for t in PLAIN.tags if t not in ("ins", "del")])


@settings(max_examples=60, deadline=None)
@given(hostile, hostile)
def test_no_text_breaks_the_page_and_all_of_it_is_shown(said: str, wanted: str) -> None:
    page = Page(report_html(make_report(said, wanted=wanted)))
    assert set(page.tags) <= {*PLAIN.tags}
    assert page.attributes <= PLAIN.attributes
    visible = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", "", said)
    assert "".join(visible.split()) in "".join(re.sub("[\u2400-\u241f␡�]", "", page.text).split()) or any(c in said for c in "␡�")


def test_the_page_needs_nothing_from_anywhere_and_allows_no_script() -> None:
    page = report_html(make_report("http://elsewhere.example/x"))
    assert "default-src 'none'" in page
    assert not {"script", "img", "link", "iframe", "object", "a"} & set(Page(page).tags)
    assert not {"src", "href", "onload", "onclick", "style"} & Page(page).attributes
    assert "url(" not in page
    assert "@import" not in page


def test_a_failed_check_stands_first_and_the_verdict_on_top() -> None:
    report = make_report(passed=False, wanted="other")
    page = Page(report_html(report)).text
    assert (
        page.index("Failed")
        < page.index("1 of 2 checks failed.")
        < page.index("Checks")
        < page.index("✘two")
        < page.index("✔one")
    )


def test_a_missing_reference_is_said() -> None:
    assert "no reference" in report_markdown(make_report())
    assert "There was no reference to compare the answers with." in report_html(make_report())
    assert "no reference" not in report_markdown(make_report(wanted="x"))


def test_a_server_that_could_not_start_is_a_report_too() -> None:
    report = make_report("Triton was not ready after 2 s", gate=False)
    assert verdict(report) == "Could not be served."
    assert "Triton was not ready after 2 s" in report_markdown(report)
    assert "What went wrong" in Page(report_html(report)).text


def test_an_invalid_repository_is_a_report_too() -> None:
    report = make_report(gate=False) | {"error": None}
    report["validation"] = {"ok": False, "findings": [{"severity": "error", "file": "m/config.pbtxt", "message": "no backend"}]}
    assert verdict(report) == "Not valid."
    assert "no backend" in Page(report_html(report)).text
    assert "no backend" in report_markdown(report)


def test_a_recipe_that_wants_no_serving_gives_a_short_report() -> None:
    report = make_report(gate=False) | {"error": None, "passed": True, "served": False}
    assert verdict(report) == "Valid; not served, as the recipe wants it."
    assert "Speed" not in Page(report_html(report)).text


def test_the_three_files_are_written_and_the_json_is_the_report(tmp_path: Path) -> None:
    report = make_report("ä 🎈 \ud800 lone", wanted="ö")
    paths = write_report_files(report, tmp_path)
    assert [p.name for p in paths] == ["report.json", "report.md", "report.html"]
    assert json.loads(paths[0].read_text())["gate"]["checks"] == json.loads(json.dumps(report))["gate"]["checks"]
    assert "ä 🎈" in paths[1].read_text(encoding="utf-8")
    assert "ä 🎈" in paths[2].read_text(encoding="utf-8")


# Markdown ---------------------------------------------------------------------------------------------------------------


def rendered(text: str) -> Page:
    from markdown_it import MarkdownIt

    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


PLAIN_MARKDOWN = rendered(report_markdown(make_report("plain", wanted="other")))


@settings(max_examples=60, deadline=None)
@given(hostile.filter(lambda text: text not in ("", "build")), hostile)
def test_no_text_becomes_markup_in_markdown(said: str, wanted: str) -> None:
    page = rendered(report_markdown(make_report(said, wanted=wanted)))
    assert set(page.tags) <= set(PLAIN_MARKDOWN.tags)
    assert page.comments == 0
    for tag in ("h1", "h2", "tr", "td"):
        assert page.tags.count(tag) == PLAIN_MARKDOWN.tags.count(tag)


@pytest.mark.parametrize("attack", ATTACKS[:-1])
def test_markdown_still_shows_what_was_said(attack: str) -> None:
    page = rendered(report_markdown(make_report(attack)))
    first = attack.split("\n")[-1].strip().strip("\x00")
    assert first.split(" ")[0] in page.text


# Parts ------------------------------------------------------------------------------------------------------------------


@given(st.text("ab \n.", max_size=60), st.text("ab \n.", max_size=60))
def test_a_marked_difference_keeps_both_texts(served: str, reference: str) -> None:
    left, right = marked_difference(served, reference)
    assert re.sub("</?ins>", "", left) == served
    assert re.sub("</?del>", "", right) == reference
    assert ("<ins>" in left or "<del>" in right) == (served != reference)


def test_only_what_differs_is_marked() -> None:
    assert marked_difference("one two three", "one 2 three") == ("one <ins>two</ins> three", "one <del>2</del> three")


def test_long_texts_are_compared_in_no_time_and_marked_to_the_end() -> None:
    words = "w " * MAX_COMPARED_WORDS
    left, right = marked_difference(words + "x y", words + "z y")
    assert left.endswith("<ins>x y</ins>")
    assert right.endswith("<del>z y</del>")


@given(st.lists(st.tuples(st.text(), st.floats(0, 1e6), st.none() | st.floats(0, 1e6)), min_size=1, max_size=8))
def test_bars_are_proper_svg_and_stay_on_the_page(items: list[tuple[str, float, float | None]]) -> None:
    printable = [(re.sub(r"[^\x20-\x7e]", "", label), value, limit) for label, value, limit in items]
    root = ElementTree.fromstring(bars("t", [Bar(label, value, str(value), limit) for label, value, limit in printable]))
    width = float(root.attrib["viewBox"].split()[2])
    for element in root.iter("rect"):
        assert 0 <= float(element.attrib["x"]) + float(element.attrib["width"]) <= width


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(-10, 2e6))
def test_a_histogram_counts_everything_once_and_stays_on_the_page(values: list[float], mark: float) -> None:
    root = ElementTree.fromstring(histogram("t", values, [("p50", mark)], unit="ms"))
    assert sum(int(title.text or 0) for rect in root.iter("rect") for title in rect.iter("title")) == len(values)
    for element in root.iter("line"):
        assert 0 <= float(element.attrib["x1"]) <= 720


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0123, "12.3 ms"), (0.5, "500 ms"), (3.21, "3.2 s"), (125, "2 min 5 s"), (8000, "2 h 13 min"), (0, "0.0 ms")],
)
def test_times_are_written_as_people_read_them(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
