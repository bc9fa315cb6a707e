"""The functions between layers in every form that a policy is exported in.

They are those of ``policy.activation``, bounded as they are there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from nesht_jax.policy.activation import REACH

NEAR = 1 / REACH
"""Distance from 0 at which the reciprocal stays what it is there."""


class Function(NamedTuple):
    """One function.

    Attributes:
        of: (``numpy`` or ``jax.numpy``, x) -> its values.
        python: expression in ``np`` and ``x``.
        c: expression of C around ``{}``.
        onnx: (node maker, constant maker, x) -> name of its values; see ``formats.write_onnx``.
    """

    of: Callable[[Any, Any], Any]
    python: str
    c: str
    onnx: Callable[[Any, Any, str], str]


def _one(kind: str) -> Callable[[Any, Any, str], str]:
    return lambda node, constant, x: node(kind, x)


def _far(numpy: Any, x: Any) -> Any:
    return numpy.where(abs(x) < NEAR, numpy.where(x < 0, -NEAR, NEAR), x)


def _onnx_exp(node: Any, constant: Any, x: str) -> str:
    return node("Exp", node("Min", x, constant(REACH)))


def _onnx_reciprocal(node: Any, constant: Any, x: str) -> str:
    side = node("Where", node("Less", x, constant(0)), constant(-NEAR), constant(NEAR))
    return node("Reciprocal", node("Where", node("Less", node("Abs", x), constant(NEAR)), side, x))


def _onnx_step(node: Any, constant: Any, x: str) -> str:
    return node("Where", node("Greater", x, constant(0)), constant(1), constant(0))


FUNCTIONS = {
    "tanh": Function(lambda np, x: np.tanh(x), "np.tanh(x)", "tanhf({})", _one("Tanh")),
    "relu": Function(
        lambda np, x: np.maximum(x, 0), "np.maximum(x, 0)", "fmaxf({}, 0.0f)", _one("Relu")
    ),
    "exp": Function(
        lambda np, x: np.exp(np.minimum(x, REACH)),
        f"np.exp(np.minimum(x, {REACH}))",
        f"expf(fminf({{}}, {REACH}f))",
        _onnx_exp,
    ),
    "identity": Function(lambda np, x: x, "x", "{}", _one("Identity")),
    "sin": Function(lambda np, x: np.sin(x), "np.sin(x)", "sinf({})", _one("Sin")),
    "sigmoid": Function(
        lambda np, x: (np.tanh(x / 2) + 1) / 2,
        "(np.tanh(x / 2) + 1) / 2",
        "0.5f * tanhf(0.5f * ({})) + 0.5f",
        _one("Sigmoid"),
    ),
    "abs": Function(lambda np, x: abs(x), "np.abs(x)", "fabsf({})", _one("Abs")),
    "cos": Function(lambda np, x: np.cos(x), "np.cos(x)", "cosf({})", _one("Cos")),
    "square": Function(
        lambda np, x: x * x, "x * x", "powf({}, 2.0f)", lambda node, constant, x: node("Mul", x, x)
    ),
    "reciprocal": Function(
        lambda np, x: 1 / _far(np, x),
        f"1 / np.where(np.abs(x) < {NEAR}, np.where(x < 0, -{NEAR}, {NEAR}), x)",
        "policy_reciprocal({})",
        _onnx_reciprocal,
    ),
    "step": Function(
        lambda np, x: np.where(x > 0, 1, 0).astype(x.dtype),
        "np.where(x > 0, float32(1), float32(0))",
        "({}) > 0.0f ? 1.0f : 0.0f",
        _onnx_step,
    ),
}

C_RECIPROCAL = (
    "static float policy_reciprocal(float x) { return 1.0f / "
    f"(fabsf(x) < {NEAR}f ? (x < 0.0f ? -{NEAR}f : {NEAR}f) : x); }}"
)
"""What a header needs before a policy that takes reciprocals."""
