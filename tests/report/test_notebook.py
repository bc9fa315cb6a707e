"""What a notebook shows of a run."""

import base64
import re

import numpy as np

from nesht_jax.report.notebook import fragment, sentence
from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import EvaluationRow, Row

EVALUATION = EvaluationRow(12.34, 1.0, 10.1, 14.6, 10, 0, 99.0, 0.5, [])
ROWS = [
    Row(0, evaluation=EVALUATION._replace(mean=-5.0)),
    Row(1, steps=700, evaluation=EVALUATION),
    Row(2, steps=600),
]
READING = Reading(
    sensors=("a<b", "c"),
    motors=("<b>thigh</b>",),
    weights=np.array([[1.0], [0.0]], np.float32),
    biases=np.zeros(1, np.float32),
    formulas=("{}",),
    units="every sensor & its mean",
)


def test_a_sentence_tells_the_last_evaluation_the_steps_and_what_is_read():
    told = "probe/x: return 12.3 (95 % interval 10.1 … 14.6) after 2 generations, 1,300 steps"
    assert sentence("probe/x", ROWS, None) == told
    assert sentence("probe/x", ROWS, READING) == f"{told}; reads 1 of 2 sensors"


def test_a_sentence_knows_runs_that_came_to_nothing():
    failed = EVALUATION._replace(mean=None, standard_error=None, low=None, high=None)
    assert "no finite return" in sentence("probe/x", [Row(0, evaluation=failed)], None)
    alone = EVALUATION._replace(standard_error=None, low=None, high=None)
    assert "return 12.3 after" in sentence("probe/x", [Row(0, evaluation=alone)], None)
    assert "not evaluated yet after 0 generations, 0 steps" in sentence("probe/x", [], None)


def test_everything_is_escaped(tmp_path):
    page = fragment(sentence("<script>alert(1)</script>", ROWS, READING), READING, tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;: return 12.3" in page
    law = re.search("<pre>(.*)</pre>", page, re.DOTALL)[1]
    assert law == "&lt;b&gt;thigh&lt;/b&gt; = 1.00 a&lt;b\n(every sensor &amp; its mean)"
    assert set(re.findall(r"</?(\w+)", page)) == {"div", "p", "pre"}


def test_the_pictures_that_are_there_are_within_the_page(tmp_path):
    (tmp_path / "sensors.png").write_bytes(b"a picture")
    page = fragment("told", None, tmp_path)
    (source,) = re.findall('src="data:image/png;base64,(.*?)"', page)
    assert base64.b64decode(source) == b"a picture"
    assert "<pre>" not in page


def test_a_law_that_nobody_would_read_is_left_out(tmp_path):
    names = tuple(f"sensor {i}" for i in range(13))
    long = READING._replace(sensors=names, weights=np.ones((13, 1), np.float32))
    assert "<pre>" not in fragment("told", long, tmp_path)
    assert "<pre>" not in fragment("told", READING._replace(formulas=()), tmp_path)
