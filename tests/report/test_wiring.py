"""Pictures of an architecture: every edge under its name, whatever its size."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from nesht_jax.report.rows import Row
from nesht_jax.report.wiring import Proposed, Wiring, search_picture, wiring_picture


def wired(sizes, *, share=0.2, colors=0):
    rng = np.random.default_rng(0)
    shapes = zip(sizes[:-1], sizes[1:], strict=True)
    kernels = tuple(rng.normal(size=shape) * (rng.random(shape) < share) for shape in shapes)
    nodes = tuple(tuple(f"n{layer}.{i}" for i in range(size)) for layer, size in enumerate(sizes))
    return Wiring(nodes, kernels, colors)


def test_names_stand_in_the_order_of_the_entries():
    wiring = wired((3, 4, 2))
    names = wiring.names()
    assert len(names) == wiring.num_edges == 20
    assert names[0] == "n0.0 → n1.0" and names[5] == "n0.1 → n1.1"
    assert names[12 + 3] == "n1.1 → n2.1"
    assert wiring.living == sum(np.count_nonzero(kernel) for kernel in wiring.kernels)


def drawn(wiring):
    picture = BytesIO()
    wiring_picture(wiring, picture, title="a title")
    with Image.open(picture) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def red_and_blue(pixels):
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return int((red > blue + 60).sum()), int((blue > red + 60).sum())


def test_an_edge_is_red_or_blue_by_its_sign():
    nodes = (("a", "b"), ("c",))
    up = drawn(Wiring(nodes, (np.array([[1.0], [0.0]]),)))
    down = drawn(Wiring(nodes, (np.array([[-1.0], [0.0]]),)))
    none = drawn(Wiring(nodes, (np.zeros((2, 1)),)))
    assert red_and_blue(none) == (0, 0)
    assert red_and_blue(up)[0] > 100 and red_and_blue(up)[1] == 0
    assert red_and_blue(down)[1] > 100 and red_and_blue(down)[0] == 0


@pytest.mark.parametrize("sizes", [(2, 1), (300, 60, 5), (17, 32, 6)])
def test_a_picture_stays_readable_however_large_the_policy(sizes):
    height, width, _ = drawn(wired(sizes)).shape
    assert height < 1600 and width < 1600


def test_entries_that_share_a_weight_have_one_color():
    kernel = np.array([[0.5, -1.0], [0.5, 2.0], [2.0, -1.0]])
    pixels = drawn(Wiring((("a", "b", "c"), ("d", "e")), (kernel,), colors=3))
    colors, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    vivid = (np.ptp(colors, axis=1) > 30) & (counts > 500)
    assert vivid.sum() == 3


def test_how_often_each_edge_was_proposed(tmp_path):
    wiring = wired((4, 2))
    frequency = np.zeros((3, 8))
    frequency[:, 5] = [0.2, 0.6, 1.0]
    rows = [Row(g, edges=3.0, distinct_architectures=5) for g in range(1, 21)]
    path = tmp_path / "search.png"
    proposed = Proposed(np.array([0, 10, 20]), frequency)
    search_picture(rows, proposed, wiring, path, title="a title", target=4)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    dark, bright = (np.abs(pixels - c).sum(1) < 12 for c in ([68, 1, 84], [253, 231, 37]))
    # 7 of 8 edges are never proposed, one always at the last of three evaluations
    assert dark.sum() > 8 * bright.sum() > 0
