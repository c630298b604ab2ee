import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fedhealth.report.render import render_run_report

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks that tags balance, and collects ids, sections and text."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.sections, self.words = [], [], [], []
        self.feed(source)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        self.ids += [known["id"]] if "id" in known else []
        self.sections += [known["id"]] if tag == "section" else []
        assert not any(name.startswith("on") for name in known)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def page(run):
    return Page(render_run_report(run.write()))


def test_a_whole_run(whole):
    found = Page(whole[1])
    expected = "notices federate modalities learning quality hospitals communication timeline made"
    assert found.sections == expected.split()
    assert "3 hospitals, 3 rounds: the shared model reaches a pooled AUROC of 0.882 [0.862, 0.902]" in found.text
    assert "on 1,234 test studies that no hospital trained on." in found.text
    assert "Trained alone, the hospitals reach 0.832 on average;" in found.text
    assert "one model trained on all data pooled in one place reaches 0.892." in found.text
    assert "A missed 1 round." in found.text
    assert "No differential privacy; no secure aggregation: the lead saw each hospital's own update." in found.text
    assert "broken.dcm: not a DICOM file" in found.text


def written(estimate, sign=""):
    numbers = [f"{estimate[name]:{sign}.3f}".replace("-", "−") for name in ("value", "low", "high")]
    return "{} [{}, {}]".format(*numbers)


def test_every_number_is_the_inputs(whole):
    run, source = whole
    text = Page(source).text
    for row in run.comparison["differences"]:
        assert f"{written(row['alternative'])} {written(row['gain'], '+')}" in text
    for metric in ("auroc", "auprc", "balanced_accuracy", "calibration_error"):
        assert written(run.comparison["models"][0]["pooled"][metric]) in text
    assert written(run.evaluation["validation"]["auroc"]) in text
    assert (
        "11.0 MB were sent to the hospitals and 7.21 MB were received from them" in text
    )  # 3 x 4 - 1 MB; 8 x 0.9 + 3 x 0.002 MB
    assert "A 3.00 MB 1.80 MB 1.90 MB" in text
    assert "A 100 95 100 50 50 % missing 3 0" in text
    assert "A 25 0.782 [0.762, 0.802] 0.682 [0.662, 0.702]" in text  # own test patients: shared model, trained alone
    assert "A 2.5 s 3.8 s round 3 1 2" in text
    assert "3 rounds, 3.0 s each (median), the slowest 4.5 s" in text
    for fact in ("0a1b2c", "2026-01-31 09:30:00 UTC", "fedhealth 0.1.0", "d1ge57", "experiment=trial"):
        assert fact in text


def test_curves_show_the_outcome_of_each_round(whole):
    """The model that comes in to round r has seen r - 1 rounds; the final evaluation adds the last point."""
    text = Page(whole[1]).text
    assert "Validation AUROC after rounds of training, pooled: from 0.600 to 0.871." in text
    assert "Training loss during each round, pooled: from 0.700 to 0.233." in text


def test_nothing_is_fetched_and_no_colour_is_fixed(whole):
    source = whole[1]
    for forbidden in ("http:", "https:", "<script", "<link", "@import", "src="):
        assert forbidden not in source
    drawings = re.findall(r"<svg.*?</svg>", source, re.DOTALL)
    assert len(drawings) == 10
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
        assert 'role="img"' in drawing
    variables = set(re.findall(r"var\((--[\w-]+)\)", source))
    assert variables <= set(re.findall(r"(--[\w-]+):", source.split("</style>")[0]))


def test_light_and_dark_define_the_same_colours(whole):
    style = whole[1].split("</style>")[0]
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL))
    assert light == dark


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_enough_contrast(whole):
    """WCAG 2.2: 4.5 to 1 for text (AA), 3 to 1 for what a chart draws."""
    style = whole[1].split("</style>")[0]
    for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for front, back, least in (
            *((text, back, 4.5) for text in ("ink", "muted", "accent") for back in ("paper", "panel")),
            *((text, "alert-panel", 4.5) for text in ("ink", "alert")),
            *((f"series-{k}", "paper", 3.0) for k in range(1, 7)),
        ):
            low, high = sorted((luminance(colours[front]), luminance(colours[back])))
            assert (high + 0.05) / (low + 0.05) >= least, (front, back)


def test_what_people_wrote_is_escaped(run):
    run.info["name"] = "<script>alert(1)</script>"
    source = render_run_report(run.write())
    assert "<script" not in source
    assert "<b>C</b>" not in source
    assert "B &amp; &lt;b&gt;C&lt;/b&gt;" in source


def without_test_rows(run):
    run.evaluation["test"] = {"studies": 0, "positives": [0], **dict.fromkeys(("auroc", "auprc"), None)}
    run.histograms = {name: np.zeros_like(counts) for name, counts in run.histograms.items()}
    run.comparison = None


def without_comparison(run):
    run.comparison = None


def with_an_empty_comparison(run):
    run.comparison = run.compared({})


def with_modalities_only(run):
    run.comparison = run.compared({"image only": 0.1})


def with_pooling_only(run):
    run.comparison = run.compared({"centralised": 0.0})


def one_class(run):
    nothing = {"value": None, "low": None, "high": None}
    run.comparison = run.compared({"alone, on average": 0.1})
    for model in run.comparison["models"]:
        model["pooled"] = dict.fromkeys(model["pooled"], nothing)
        model["sites"] = {site: dict.fromkeys(scores, nothing) for site, scores in model["sites"].items()}
    run.comparison["differences"] = [{"name": "alone, on average", "alternative": nothing, "gain": nothing}]
    run.histograms["test.positives"][:] = 0


def nothing_of_a_single_site(run):
    run.own = False
    run.counts = {}
    run.comparison = None


def always_failing_site(run):
    run.failed = {("A", number) for number in (1, 2, 3)}


def several_classes(run):
    run.config = run.config.replace("[benign, malignant]", "[a, b, c]")
    run.histograms = run.histogram(3)


def no_events(run):
    run.events = []


def stopped_at_once(run):
    run.events, run.evaluation, run.histograms, run.comparison, run.config = [], None, None, None, None
    run.info = {"state": "failed"}


def in_the_middle(run):
    events = run.default_events()
    run.events = events[: next(k for k, event in enumerate(events) if event["event"] == "round_completed")]
    run.evaluation = run.histograms = run.comparison = None


@pytest.mark.parametrize(
    ("change", "absent", "said"),
    [
        (without_test_rows, {"federate", "modalities", "quality"}, "there is no test result"),
        (without_comparison, {"federate", "modalities"}, "0.881 [0.861, 0.901]"),
        (with_an_empty_comparison, {"federate", "modalities"}, "0.882"),
        (with_modalities_only, {"federate"}, "Yes. All modalities together are better than image alone."),
        (with_pooling_only, {"modalities"}, "Compared with pooling all data in one place: no clear difference."),
        (one_class, {"modalities"}, "is not defined, because all belong to one class"),
        (nothing_of_a_single_site, {"federate", "modalities", "hospitals"}, "3 hospitals, 3 rounds"),
        (always_failing_site, {"modalities"}, "A missed 3 rounds."),
        (several_classes, {"modalities"}, "Metrics are means over classes"),
        (no_events, {"modalities", "learning", "communication", "timeline"}, "No training round is recorded."),
        (
            stopped_at_once,
            {"federate", "modalities", "learning", "quality", "hospitals", "communication", "timeline", "made"},
            "This run failed",
        ),
        (in_the_middle, {"federate", "modalities", "learning", "quality"}, "There is no final evaluation"),
    ],
)
def test_what_is_absent_is_left_out(run, change, absent, said):
    change(run)
    found = page(run)
    everything = {"federate", "modalities", "learning", "quality", "hospitals", "communication", "timeline", "made"}
    assert everything - set(found.sections) == absent
    assert said in found.text
    assert "nan" not in found.text.lower().split()
