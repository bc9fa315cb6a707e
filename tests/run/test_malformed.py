"""Whatever stands on the command line or in a file: one sentence and exit code 2, or a run that can
be trained; nothing is executed, and nothing written but what was asked for."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from nesht_jax.run.cli import main
from nesht_jax.run.config import Config
from nesht_jax.run.fields import leaves
from nesht_jax.run.train import Run

SMALL = ["--algorithm.num_members=4", "--generations=1", "--evaluation.episodes=2"]

NAMES = sorted({*leaves(Config)} - {"out", "generations"})

ODD = [
    *["", " ", "null", "true", "no", "nan", ".inf", "-.inf", "-1", "0", "0.5", "1e30", "-0.0"],
    *["2147483647", "2147483648", "18446744073709551616", "1e400", "0x10", "1_000"],
    *[
        "[",
        "]",
        "[1, -1]",
        "[[[]]]",
        "[" * 5000,
        "{a: 1}",
        "{1: 2}",
        "{a: {b: [1, {c: d}]}}",
        "&a *a",
    ],
    *["!!python/object/apply:os.system ['touch tripped']", "!!python/name:this.x", "this.x"],
    *["{class_path: this.X}", "../../etc/passwd", "/etc/hostname", "s3://bucket/x", "x" * 5000],
    *["gymnasium/this:X-v0", "gymnasium/../x:Y", "envpool/", "/", "nonsense", "none", "auto"],
    *["\x1b[31mred", "[bold]x", "a\nb", "é", "😄", "\x00", "'", '"', "- 1", ": :", "{{}}", "%s"],
]

ALWAYS_THE_SAME = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class AcceptedError(Exception):
    """The run would train now."""


@pytest.fixture(autouse=True)
def nothing_trains(monkeypatch, tmp_path):
    def go(self, *args, **options):
        self.close()
        raise AcceptedError

    monkeypatch.setattr(Run, "go", go)
    monkeypatch.chdir(tmp_path)
    sys.modules.pop("this", None)


@pytest.fixture
def answer(tmp_path):
    """Gives what a command line comes to: the sentence of a refusal, or None."""
    count = 0

    def answer(*argv):
        nonlocal count
        count += 1
        before = {p.name for p in tmp_path.iterdir()}
        told = io.StringIO()
        with redirect_stderr(told), redirect_stdout(io.StringIO()):
            try:
                code = main([*argv, f"--out={tmp_path / f'run{count}'}"])
            except AcceptedError:
                code = None
        made = {p.name for p in tmp_path.iterdir()} - before
        assert made <= {f"run{count}"}
        assert "this" not in sys.modules
        if code is None:
            return None
        (sentence,) = told.getvalue().splitlines() or [""]
        assert code == 2 and sentence.startswith("nesht: ") and len(sentence) < 6000, sentence
        assert not made, "a refused run leaves no folder"
        return sentence

    return answer


@pytest.mark.slow
@settings(ALWAYS_THE_SAME, max_examples=500)
@given(name=st.sampled_from(NAMES), value=st.sampled_from(ODD) | st.text(max_size=20))
def test_odd_values_of_options(answer, name, value):
    answer("train", "probe/linear", *SMALL, f"--{name}={value}")


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(ODD)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text("ab", max_size=2), parts, max_size=3)
    ),
    max_leaves=6,
)
SECTIONS = sorted({name.partition(".")[0] for name in NAMES})


@pytest.mark.slow
@settings(ALWAYS_THE_SAME, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(SECTIONS), VALUES, min_size=1, max_size=3)
    | st.dictionaries(
        st.sampled_from(SECTIONS),
        st.dictionaries(
            st.sampled_from([n.rpartition(".")[2] for n in NAMES]), SCALARS, max_size=2
        ),
        min_size=1,
        max_size=2,
    )
)
@example({"optimizer": "this.x"})
@example({"policy": {"class_path": "this.X"}})
def test_odd_files(answer, tmp_path, content):
    path = tmp_path / "given.yaml"
    with path.open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump(content, file)
    answer("train", "probe/linear", str(path), *SMALL)


def test_a_bomb_of_aliases_is_refused_at_once(answer, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    assert "unknown option 'a0'" in answer("train", "probe/linear", "bomb.yaml", *SMALL)
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "task_options: *a9", "seed: *a9"]))
    answer("train", "probe/linear", "bomb.yaml", *SMALL)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["policy.hidden=[1000000000]"], "policy.hidden"),
        (["policy.hidden=[" + "8," * 5000 + "8]"], "policy.hidden"),
    ],
)
def test_sizes_that_no_machine_has_are_refused_before_they_are_made(answer, words, sentence):
    assert sentence in answer("train", "probe/linear", *SMALL, *(f"--{word}" for word in words))
