"""The report: one file, nothing to load, nothing let through, whatever the run was like."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from finetune_training.events.progress import Inspected, Stage, StageStarted, Warned, as_record
from finetune_training.events.result import Artifact, ArtifactFile, Evaluations, Sample
from finetune_training.events.specimen import Piece, Specimen
from finetune_training.show.report import ReportInputs, render_report
from tests.finished_run import JOB_YAML, STARTED, STATISTICS, job, records, result, scores, step

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = """"'><script>alert(1)</script><img src=http://evil.example/x onerror=alert(1)>&lt;{{ 7*7 }}"""


class Page(HTMLParser):
    """The parsed page; fails on a tag that is not closed where it should be."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]


def inputs(**different: Any) -> ReportInputs:
    fields = {"job": job(), "job_yaml": JOB_YAML, "result": result(), "statistics": STATISTICS, "max_length": 512}
    return ReportInputs(**{**fields, "records": records(), "now": STARTED + 174.2, **different})


def page(**different: Any) -> Page:
    return Page(render_report(inputs(**different)))


def test_the_report_first_says_what_came_of_the_run() -> None:
    html = render_report(inputs())
    assert '<p class="outcome">Held-out loss fell from 4.07 to 3.81: perplexity 58.6 → 45.2.</p>' in html


def test_the_report_says_where_the_time_has_gone() -> None:
    """Thirty steps of 3.3 s in a run of 174.2 s, a second attempt after a minute."""
    later = as_record(StageStarted(Stage.EXPORTING, time=STARTED + 99 + 60)) | {"attempt": 2}
    text = page(records=[*records(), later]).text
    for name, value, note in (
        ("Steps", "1 min 39 s", "56.8 %\nthat count in the end"),
        ("Export", "15 s", "8.7 %\nanswers and artifacts"),
        ("Between attempts", "1 min 00 s", "34.4 %"),
    ):
        assert f"{name}\n{value}\n{note}" in re.sub(r"\s*\n\s*", "\n", text)


def test_the_report_shows_every_plot_and_every_number() -> None:
    shown = page()
    labels = shown.values("aria-label")
    assert [re.sub(r":.*", "", label) for label in dict.fromkeys(labels)] == [
        "Training and held-out loss by step",
        "Held-out loss",
        "Held-out perplexity",
        "Learning rate by step",
        "Gradient norm by step",
        "Tokens per second by step",
        "Rows by length in tokens",
    ]
    for text in ("122,400", "1,237", "98.7 %", "2 min 54 s", "rank 16, alpha 32", "empty 1, duplicate 2", "1,318,402"):
        assert text in shown.texts, text
    assert "c" * 64 in shown.values("title")
    assert "runs/s/checkpoints/step-00000030-a1" in shown.texts
    assert JOB_YAML in shown.texts


def test_the_report_loads_nothing_and_runs_nothing() -> None:
    shown = page()
    assert [url for name in ("src", "href") for url in shown.values(name) if not url.startswith(("#", "data:"))] == []
    assert "script" not in {tag for tag, _ in shown.tags}
    html = render_report(inputs())
    assert re.findall(r"@import|url\((?!#)|https?:", html) == []
    assert "default-src 'none'" in html


def test_ids_are_unique_and_every_reference_is_met() -> None:
    shown, html = page(), render_report(inputs())
    ids = shown.values("id")
    assert ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', html)) == set(ids)


def test_plots_take_their_colours_from_the_page() -> None:
    html = render_report(inputs())
    body = html[html.index("<body>") :]
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", body)) <= {
        "none",
        *(f"var(--{name})" for name in ("ink", "muted", "rule", "accent", "base")),
    }


def test_hostile_text_is_shown_and_never_obeyed() -> None:
    file = ArtifactFile(path=HOSTILE, bytes=1, sha256=HOSTILE)
    shown = page(
        job_yaml=HOSTILE,
        result=result(
            job=HOSTILE,
            base_model=HOSTILE,
            base_revision=HOSTILE,
            data_fingerprint=HOSTILE,
            samples=[Sample(prompt=HOSTILE, base=HOSTILE, tuned=HOSTILE)],
            artifacts=[Artifact(uri=HOSTILE, format=HOSTILE, bytes=1, sha256=HOSTILE, files=[file])],
            versions={HOSTILE: HOSTILE},
        ),
        records=[*records(), as_record(Warned(HOSTILE))],
    )
    assert {"script", "img"} & {tag for tag, _ in shown.tags} == set()
    assert [name for _, attributes in shown.tags for name in attributes if name.startswith("on")] == []
    assert shown.texts.count(HOSTILE) >= 14
    assert shown.values("title").count(HOSTILE) == 4


def test_the_data_is_shown_as_the_model_has_seen_it_and_never_obeyed() -> None:
    pieces = (Piece("ask", learnt=False), Piece(HOSTILE, learnt=True), Piece("</s>", learnt=True, special=True))
    row = Specimen(f"{HOSTILE}.jsonl:1", "f" * 16, "Messages", 9, 4, pieces, ("cut to maxLength",))
    seen = as_record(Inspected(("train[0]: 1 file, 1 kB.",), (row,)))
    html = render_report(inputs(records=[json.loads(json.dumps(seen)), *records()]))
    shown = Page(html)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in shown.tags)
    assert [tag for tag, _ in shown.tags].count("mark") == 2  # the legend's and the row's
    for text in ("train[0]: 1 file, 1 kB.", "9 tokens, 4 learnt", "cut to maxLength", "ask"):
        assert text in shown.text
    assert "As the model sees it" not in render_report(inputs())


def test_line_breaks_of_answers_are_kept() -> None:
    html = render_report(inputs())
    assert '<div class="text" dir="auto">,\nI am not so much of a man.</div>' in html
    assert re.search(r"\.text \{ white-space: pre-wrap;", html)


def test_without_evaluation_the_training_loss_is_told() -> None:
    shown = page(
        result=result(evaluation=Evaluations()),
        records=[as_record(step(number, loss=4.0 if number <= 15 else 3.0)) for number in range(1, 31)],
    )
    assert "The tuned model was not evaluated. Training loss went from 4.00 to 3.00." in shown.texts
    assert not [label for label in shown.values("aria-label") if label.startswith("Held-out")]


def test_without_samples_there_is_no_section_of_samples() -> None:
    assert "Samples" in page().texts
    assert "Samples" not in page(result=result(samples=[])).texts


def test_a_sample_without_the_base_model_shows_one_answer() -> None:
    shown = page(result=result(samples=[Sample(prompt="p", base=None, tuned="the answer")]))
    assert "the answer" in shown.texts
    assert "Base" not in shown.texts


@pytest.mark.parametrize("lines", [[], [as_record(step(1, 1))]], ids=["no step", "one step"])
def test_a_run_too_short_for_curves_has_no_curves(lines: list[dict[str, Any]]) -> None:
    labels = page(records=lines).values("aria-label")
    assert [label.split(":")[0] for label in labels[:2]] == ["Held-out loss", "Held-out perplexity"]
    assert not [label for label in labels if label.endswith("by step")]


def test_losses_that_are_no_numbers_are_named_as_such() -> None:
    lines = [{**record, "loss": math.nan} if record.get("step", 0) > 20 else record for record in records()]
    evaluation = Evaluations(baseline=scores(4.07), tuned=scores(math.nan))
    shown = page(records=lines, result=result(evaluation=evaluation))
    assert "Held-out loss is not a number: the training diverged." in shown.texts
    assert "The training loss was not a number in 10 steps." in shown.texts
    assert not re.search(
        r'[ "]-?(nan|inf)\b', render_report(inputs(records=lines, result=result(evaluation=evaluation)))
    )


def test_without_any_number_there_is_no_loss_plot() -> None:
    lines = [{**record, "loss": math.nan, "gradientNorm": math.inf} for record in records()]
    labels = page(records=lines).values("aria-label")
    assert "Training and held-out loss by step" not in labels
    assert "Gradient norm by step" not in labels
    assert "Learning rate by step" in labels


def test_a_run_of_100_000_steps_with_huge_hostile_samples_stays_below_1_5_megabytes() -> None:
    long = "<&\"'>" * 100_000
    html = render_report(
        inputs(
            job_yaml=long,
            result=result(samples=[Sample(prompt=long, base=long, tuned=long)] * 16),
            records=[*records(100_000), *(as_record(Warned(f"{number}{long}")) for number in range(100))],
        )
    )
    assert len(html.encode()) < 1_500_000
    assert "496,000 characters more" in html
    Page(html)


def test_of_a_resumed_run_the_last_attempt_counts() -> None:
    again = [{**as_record(step(number)), "tokens": 1_000_000} for number in range(21, 31)]
    shown = page(records=[*records(), *again], result=result(attempt=2, resumed_from_step=20))
    assert "attempt 2, resumed from step 20" in shown.texts
    assert "10.1 M" in shown.texts


def test_matplotlib_is_imported_for_the_first_plot_and_pyplot_never() -> None:
    script = (
        "import sys; import finetune_training.show.report; assert 'matplotlib' not in sys.modules\n"
        "from tests.unit.training.show.test_report import inputs\n"
        "finetune_training.show.report.render_report(inputs())\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_report_of_the_same_run_has_the_same_bytes() -> None:
    assert render_report(inputs()) == render_report(inputs())
