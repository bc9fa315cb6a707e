"""The page of a run: what it tells, how large it is, and what a real browser makes of it."""

import csv
import json
import re
import shutil
import time
from io import StringIO

import numpy as np
import pytest

from nesht_jax.report.page import (
    MOST_IRRELEVANT,
    MOST_SENSORS,
    Pruned,
    Run,
    as_latex,
    comparison,
    curve,
    differences,
    ranking,
    shown_inputs,
    verdict,
    write_page,
)
from nesht_jax.report.reading import Reading
from nesht_jax.report.rows import EvaluationRow, Row, csv_text
from nesht_jax.report.statistics import bootstrap_interval, iqm, score

SENSORS = ("height", "pitch", "<b>rate</b>")
KERNEL = np.array([[1.5, 0], [0, -0.25], [0, 0], [0, 0], [0, 0.5], [0, 0]], np.float32)
SETTINGS = {"seed": "0", "distractors": "1", "steps": "300"}


def evaluated(generation, mean, steps=100):
    low, high = (None, None) if mean is None else (mean - 1, mean + 1)
    found = EvaluationRow(mean, 0.5, low, high, 10, 0, 50.0, 0.5, [])
    return Row(generation, steps=steps * bool(generation), seconds=0.5, evaluation=found)


def a_run(name="first", last=30.0, **settings):
    reading = Reading(
        SENSORS, ("thigh", "foot"), KERNEL, np.zeros(2), ("tanh({})", "tanh({})"), "as shown"
    )
    pruned = []
    for k in (1, 2, 3):
        kept = np.where(np.argsort(np.argsort(-np.abs(KERNEL).max(1)))[:, None] < k, KERNEL, 0)
        pruned.append(Pruned(k, score(np.array([10.0 * k, 10.0 * k + 2]), np.array([5, 5])), kept))
    return Run(
        name=name,
        task="probe/linear",
        generation=3,
        rows=[evaluated(0, 1.0), Row(1, steps=100, seconds=0.5), evaluated(2, None)]
        + [evaluated(3, last)],
        settings=SETTINGS | settings,
        changed=["distractors"],
        command="nesht train probe/linear --distractors 1",
        made="Trained yesterday.",
        reading=reading,
        pruned=pruned,
        unit="inputs",
        kernels={0: KERNEL * 0, 2: KERNEL / 2, 3: KERNEL},
    )


def data(path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_verdict_is_one_sentence_with_an_interval():
    assert verdict(a_run()) == (
        "After 300 steps the policy reads 2 of 3 sensors and 1 of 3 irrelevant inputs, with 3 of "
        "12 weights, and earns 31 an episode (95 % interval 18 … 44, 2 fresh episodes)."
    )
    images = a_run()._replace(reading=None)
    assert verdict(images).startswith("After 300 steps the policy earns 31 an episode")


def test_an_earlier_policy_is_told_with_its_own_steps_and_return():
    early = a_run()._replace(generation=2)
    assert verdict(early).startswith("After 200 steps the policy")
    (row,) = comparison([early, early._replace(name="second")])
    assert (row["mean"], row["million steps"]) == ("1.0", "0.00")
    assert comparison([a_run()])[0]["mean"] == "30.0"


def test_the_robot_stands_where_there_is_no_film(tmp_path):
    path, still = tmp_path / "page.html", "data:image/webp;base64,AAAA"
    for film, seen in (("", still), ("data:image/gif;base64,BBBB", "data:image/gif;base64,BBBB")):
        write_page([a_run()._replace(film=film, robot=still)], path)
        images = re.findall(r'<img[^>]* src="([^"]*)"', path.read_text(encoding="utf-8"))
        assert images == [seen]


def test_a_curve_counts_steps_and_seconds_and_leaves_failed_evaluations_out():
    points = curve(a_run().rows)
    assert [(p["generation"], p["steps"], p["seconds"]) for p in points] == [
        (0, 0, 0.5),
        (3, 300, 2.0),
    ]
    assert (points[1]["mean"], points[1]["low"], points[1]["high"]) == (30, 29, 31)


def test_shown_are_the_true_inputs_and_the_irrelevant_ones_that_were_read():
    reading = a_run().reading
    assert reading is not None
    assert shown_inputs(reading, {}) == [0, 1, 2, 4]
    once = KERNEL + np.eye(6, 2, -3, dtype=np.float32)  # inputs 3 and 4
    assert shown_inputs(reading, {0: once}) == [0, 1, 2, 4]
    assert shown_inputs(reading, {0: once, 2: once}) == [0, 1, 2, 3, 4]
    many = reading._replace(
        sensors=tuple(f"s{i}" for i in range(100)), weights=np.ones((300, 2), np.float32)
    )
    shown = shown_inputs(many, {})
    assert len(shown) == MOST_SENSORS + MOST_IRRELEVANT
    assert sum(i < 100 for i in shown) == MOST_SENSORS


def test_a_page_holds_what_it_draws_and_needs_nothing_else(tmp_path):
    write_page([a_run()], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>rate" not in text  # names of a run folder are no markup
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    (told,) = data(tmp_path / "page.html")
    assert told["table"]["rows"] == [*SENSORS, "irrelevant 1"]
    assert told["table"]["weights"] == [[1.5, 0], [0, -0.25], [0, 0], [0, 0.5]]
    assert told["table"]["hidden"] == "and 2 more inputs, none of them read"
    assert [point["k"] for point in told["pruned"]] == [1, 2, 3]
    assert told["pruned"][0]["kept"] == [[1, 0], [0, 0], [0, 0], [0, 0]]
    assert told["history"]["generations"] == [0, 2, 3]
    assert told["history"]["weights"][1][0] == [0.75, 0]


def test_a_large_policy_has_a_small_page(tmp_path):
    sensors = tuple(f"sensor {i}" for i in range(348))
    kernel = np.random.default_rng(0).normal(size=(348 * 11, 17)).astype(np.float32)
    run = a_run()._replace(
        reading=Reading(sensors, tuple(f"motor {i}" for i in range(17)), kernel, np.zeros(17)),
        kernels={g: kernel for g in range(0, 2000, 10)},
        pruned=[a_run().pruned[0]._replace(kernel=kernel)] * 12,
    )
    for formulas in ((), ("{}",) * 17):
        assert run.reading is not None
        shown = run._replace(reading=run.reading._replace(formulas=formulas))
        write_page([shown], tmp_path / "page.html")
        assert (tmp_path / "page.html").stat().st_size < 300 * 1024
    assert len(data(tmp_path / "page.html")[0]["table"]["columns"]) == 17


def test_hidden_units_are_summed_up(tmp_path):
    run = a_run()
    assert run.reading is not None
    write_page([run._replace(reading=run.reading._replace(formulas=()))], tmp_path / "page.html")
    (told,) = data(tmp_path / "page.html")
    assert told["table"]["columns"] == ["norm of its weights"]
    assert told["table"]["weights"] == [[1.5], [0.25], [0], [0.5]]
    assert told["pruned"][0]["kept"] == [[1], [0], [0], [0]]


def test_several_runs_are_compared_seed_by_seed(tmp_path):
    lasts = [10.0, 20.0, 60.0, 70.0]
    runs = [a_run(f"run{i}", last=x, seed=str(i)) for i, x in enumerate(lasts)]
    runs.append(a_run("other", last=90.0, steps="600"))
    first, second = comparison(runs)
    low, high = bootstrap_interval([lasts])
    assert (first["seeds"], second["seeds"]) == ("4", "1")
    assert first["IQM"] == f"{iqm(lasts):.1f}" and first["mean"] == "40.0"
    assert first["95 % interval"] == f"{low:.1f} … {high:.1f}"
    assert second["95 % interval"] == "–"
    assert differences(runs) == ["seed", "steps"]
    assert ranking([first, second]) == "Of 2 settings: on probe/linear other did best, 90.0."
    assert ranking([first]) == (
        "4 runs of probe/linear with the same settings: the interquartile mean of their returns "
        "is 40.0."
    )
    write_page(runs, tmp_path / "page.html")
    assert [run["name"] for run in data(tmp_path / "page.html")] == [run.name for run in runs]


def test_the_table_of_several_runs_is_taken_away_as_csv_and_latex():
    rows = [{"task": "a_b", "mean": "1.0"}, {"task": "c&d", "mean": "2.0"}]
    assert list(csv.DictReader(StringIO(csv_text(rows)))) == rows
    assert csv_text([]) == ""
    assert as_latex(rows) == (
        "\\begin{tabular}{ll}\ntask & mean \\\\\n\\hline\na\\_b & 1.0 \\\\\nc\\&d & 2.0 \\\\\n"
        "\\end{tabular}\n"
    )


# ----------------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window, whose log and requests are kept."""
    places = [shutil.which("chromium"), shutil.which("chromedriver")]
    if None in places:
        pytest.skip("no Chromium with its driver (chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = places[0]
    for option in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync"):
        options.add_argument(f"--{option}")
    for option in ("disable-background-networking", "disable-component-update"):
        options.add_argument(f"--{option}")
    options.add_argument("--window-size=1100,2000")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(places[1]))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens the page of some runs; afterwards nothing may have been complained of or asked for."""

    def open_page(runs):
        write_page(runs, tmp_path / "page.html")
        browser.get((tmp_path / "page.html").as_uri())
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"].endswith("WillBeSent")]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)


def texts(browser, selector):
    script = "return [...document.querySelectorAll(arguments[0])].map((x) => x.textContent.trim())"
    return browser.execute_script(script, selector)


def move(browser, place, value):
    script = "const x = document.getElementById(arguments[0]); x.value = arguments[1];"
    browser.execute_script(f"{script} x.dispatchEvent(new Event('input'))", place, value)


def test_the_slider_shows_what_was_measured(opened):
    page = opened([a_run()])
    assert texts(page, "#kept") == ["3 inputs: return 31 (18 … 44)"]
    assert texts(page, "tr.read td:first-child") == ["height", "pitch", "irrelevant 1"]
    mark = "return document.getElementById('mark').getAttribute('cy')"
    whole = float(page.execute_script(mark))
    move(page, "k", 0)
    assert texts(page, "#kept") == ["1 input: return 11 (-2 … 24)"]
    assert texts(page, "tr.read td:first-child") == ["height"]
    assert texts(page, "tr.unread td:first-child") == ["pitch", "<b>rate</b>", "irrelevant 1"]
    assert float(page.execute_script(mark)) > whole  # a lower return is drawn lower


def test_the_generations_play(opened):
    page = opened([a_run()])
    move(page, "generation", 1)
    assert texts(page, "#at") == ["generation 2"]
    assert texts(page, "tr.read td") == [
        *("height", "+0.75", ""),
        *("pitch", "", "-0.13"),
        *("irrelevant 1", "", "+0.25"),
    ]
    page.execute_script("document.getElementById('play').click()")
    deadline = time.monotonic() + 10
    while texts(page, "#at") != ["generation 3"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert texts(page, "#at") == ["generation 3"]


def test_curves_are_drawn_against_what_is_chosen(opened):
    page = opened([a_run(), a_run("second", last=50.0, steps="600")])
    assert len(texts(page, "#curve polyline")) == 2
    assert "environment steps" in texts(page, "#curve text")
    assert texts(page, "#settings tbody tr td") == ["steps", "300", "600"]
    page.execute_script(
        "const x = document.getElementById('axis'); x.value = 'generation';"
        "x.dispatchEvent(new Event('change'))"
    )
    assert "generations" in texts(page, "#curve text")


def test_curves_of_many_runs_stand_upright_under_their_legend(opened):
    page = opened([a_run(f"run{i}", last=10.0 * i, seed=str(i)) for i in range(20)])
    lines = page.execute_script(
        "return [...document.querySelectorAll('#curve polyline')].map((x) =>"
        " [x.getAttribute('points'), x.getAttribute('stroke'), x.getAttribute('stroke-dasharray')])"
    )
    ends = [float(points.split(",")[-1]) for points, *_ in lines]
    assert ends == sorted(ends, reverse=True) and ends[0] - ends[-1] > 100
    assert min(ends) > 16 * 20
    assert len({tuple(look) for _, *look in lines}) == 20


@pytest.mark.slow
def test_a_screenshot_has_the_colors_of_the_weights(opened, tmp_path):
    from PIL import Image

    page = opened([a_run()])
    page.save_screenshot(str(tmp_path / "shot.png"))
    seen = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)
    red, green, blue = seen[..., 0], seen[..., 1], seen[..., 2]
    assert ((red > 190) & (green < 90) & (blue < 90)).sum() > 300  # +1.50
    assert ((blue > 200) & (red < 220) & (blue - red > 30)).sum() > 300  # -0.25, and the curves
    assert (seen.sum(2) < 200).sum() > 500  # letters
