"""What a policy reads: counts, formulas, and the picture of both."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from nesht_jax.report import figures
from nesht_jax.report.reading import Reading

WEIGHTS = np.array([[1.25, 0], [0, 0], [-4.04, 0.5], [0, 0], [0, -2], [0, 0]], np.float32)
READING = Reading(
    sensors=("height", "pitch", "pitch rate"),
    motors=("thigh", "foot"),
    weights=WEIGHTS,
    biases=np.array([0.1, 0.001], np.float32),
    formulas=("tanh({})", "clip({}, -1, 1)"),
)


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """What a picture would write: the figure itself."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, dpi: kept.append(figure))

    def draw(reading, robot=None):
        path, title = tmp_path / "sensors.png", "envpool/Hopper-v5 ×1"
        figures.sensors_picture(reading, path, title=title, robot=robot)
        return kept[-1]

    return draw


def names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_counts():
    assert READING.read.tolist() == [[True, False, True], [False, True, False]]
    assert READING.weights_by_segment == [3, 1]
    assert READING.verdict() == "reads 2 of 3 sensors and 1 of 3 irrelevant inputs"
    alone = READING._replace(weights=WEIGHTS[:3])
    assert alone.verdict() == "reads 2 of 3 sensors"


def test_the_law_has_the_strongest_sensor_first():
    assert READING.law() == [
        "thigh = tanh(-4.04 pitch rate + 1.25 height + 0.10)",
        "foot = clip(-2.00 irrelevant 1 + 0.50 pitch rate, -1, 1)",
    ]


def test_the_law_of_nothing_and_of_hidden_layers():
    zero = READING._replace(weights=WEIGHTS * 0, biases=np.zeros(2))
    assert zero.law() == ["thigh = tanh(0)", "foot = clip(0, -1, 1)"]
    assert READING._replace(formulas=()).law() == []


def test_the_picture_tells_which_sensors_are_read(drawn):
    table, bars = drawn(READING).axes
    assert names(table) == ["height", "pitch", "pitch rate"]
    assert [label.get_color() for label in table.get_yticklabels()] == ["black", "0.6", "black"]
    assert [label.get_text() for label in table.get_xticklabels()] == ["thigh", "foot"]
    assert [text.get_text() for text in table.texts] == ["+1.25", "-4.04", "+0.50"]
    assert [bar.get_height() for bar in bars.patches] == [3, 1]
    assert READING.verdict() in drawn(READING).get_suptitle()


def test_a_picture_without_distractors_has_no_bars(drawn):
    assert len(drawn(READING._replace(weights=WEIGHTS[:3])).axes) == 1


def test_the_robot_is_left_of_what_it_reads(drawn):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (10, 20, 30)).save(file, "webp", lossless=True)
    bare, figure = drawn(READING), drawn(READING, robot=file.getvalue())
    robot, table, _ = figure.axes
    (picture,) = robot.images
    assert picture.get_array().shape[:2] == (4, 6)
    assert picture.get_array()[0, 0].tolist()[:3] == [10, 20, 30]
    figure.draw_without_rendering()
    assert robot.get_position().x1 < table.get_position().x0
    assert figure.get_figwidth() == pytest.approx(bare.get_figwidth() + figures.ROBOT)
    assert names(table) == ["height", "pitch", "pitch rate"]


def test_of_many_sensors_the_strongest_are_shown(drawn):
    number = figures.MOST_SENSORS + 3
    weights = np.arange(1, number + 1, dtype=np.float32)[:, None] * np.ones((1, 40), np.float32)
    reading = Reading(
        tuple(f"s{i}" for i in range(number)), ("unit",) * 40, weights, np.zeros(40, np.float32)
    )
    figure = drawn(reading)
    (table,) = figure.axes
    assert names(table) == [f"s{i}" for i in range(3, number)]
    assert not table.texts and f"{number - 3} of {number} sensors shown" in figure.get_suptitle()


def test_a_policy_that_reads_nothing_is_drawn(tmp_path):
    path = tmp_path / "sensors.png"
    figures.sensors_picture(READING._replace(weights=WEIGHTS * 0), path, title="")
    assert path.read_bytes().startswith(b"\x89PNG")
