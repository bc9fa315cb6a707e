"""The files that hold a policy without the library: NumPy, C, ONNX, compiled JAX, safetensors.

A file holds numbers and quoted names, nothing else of a run folder.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from nesht_jax.report.rows import finite
from nesht_jax.run.functions import C_RECIPROCAL, FUNCTIONS
from nesht_jax.run.plain import PlainPolicy


def write_numpy(made: PlainPolicy, path: Path) -> None:
    """Writes a Python file that needs NumPy alone; its ``act`` is the policy."""
    inputs = {int(i): name for i, name in zip(made.inputs, made.sensors, strict=True)}
    acts = "return int(np.argmax(x))"
    if not made.discrete:
        squashed = {
            "scale": "np.where(BOUNDED, BASE + (np.tanh(x) + 1) / 2 * SPAN, x)",
            "tanh": "np.tanh(x)",
            "clip": "x",
        }[made.output]
        acts = f"return np.clip({squashed}, LOW, HIGH)"
    bounds = {} if made.discrete else {"LOW": made.low, "HIGH": made.high}
    if bounds and made.output == "scale":
        bounds |= {"BOUNDED": made.bounded, "BASE": made.base, "SPAN": made.span}
    told = {
        "FEATURES": repr(made.num_features),
        "INPUTS": repr(inputs),
        "MOTORS": repr(list(made.motors)),
        "MEAN": _array(made.mean),
        "SPREAD": _array(made.spread),
        "CLIP": _array(np.float32(made.clip)),
        "FUNCTIONS": _functions(made),
        "LAYERS": "[" + ", ".join(f"({_array(w)}, {_array(b)})" for w, b in made.layers) + "]",
        **{name: _array(value) for name, value in bounds.items()},
    }
    path.write_text(
        f'"""A policy of {_comment(made.task)}, written by nesht_jax {version("nesht-jax")}.\n\n'
        f"It reads {len(inputs)} of {made.num_features} features: see INPUTS.\n"
        '"""\n\nimport numpy as np\nfrom numpy import array, float32, inf, nan\n\n'
        + "".join(f"{name} = {value}\n" for name, value in told.items())
        + "\n\ndef act(observation):\n"
        '    """Acts on one observation of FEATURES numbers."""\n'
        "    x = (np.asarray(observation, float32)[list(INPUTS)] - MEAN) / SPREAD\n"
        "    x = np.clip(x, -CLIP, CLIP)\n"
        "    *hidden, (weights, biases) = LAYERS\n"
        "    for (w, b), functions in zip(hidden, FUNCTIONS):\n"
        "        x = x @ w + b\n"
        "        for function, units in functions:\n"
        "            x[units] = function(x[units])\n"
        "    x = x @ weights + biases\n"
        f"    {acts}\n",
        encoding="utf-8",
    )


def write_c(made: PlainPolicy, path: Path) -> None:
    """Writes a C header of one multiply-add a weight; its ``policy`` is the policy."""
    read = zip(
        made.inputs.tolist(), made.mean.tolist(), made.spread.tolist(), made.sensors, strict=True
    )
    names = [f"s{i}" for i in made.inputs.tolist()]
    lines = [
        f"    const float s{i} = {_c_clip(_c_standard(i, mean, spread), -made.clip, made.clip)};"
        f"  /* {_comment(sensor)} */"
        for i, mean, spread, sensor in read
    ]
    for number, (weights, biases) in enumerate(made.layers[:-1]):
        units = [f"h{number}_{j}" for j in range(len(biases))]
        functions = [FUNCTIONS[name].c for name, n in made.functions[number] for _ in range(n)]
        sums = _c_sums(names, weights, biases)
        lines += [
            f"    const float {unit} = {function.format(total)};"
            for unit, function, total in zip(units, functions, sums, strict=True)
        ]
        names = units
    sums = _c_sums(names, *made.layers[-1])
    if made.discrete:
        head, body = "int policy(const float *observation)", _c_choice(made, sums)
    else:
        head = "void policy(const float *observation, float *action)"
        bounds = zip(made.low.tolist(), made.high.tolist(), strict=True)
        acts = [
            _c_action(made.output, total, *both) for total, both in zip(sums, bounds, strict=True)
        ]
        body = [
            f"    action[{j}] = {act};  /* {_comment(made.motors[j])} */"
            for j, act in enumerate(acts)
        ]
    text = [
        f"/* A policy of {_comment(made.task)}, written by nesht_jax {version('nesht-jax')}: "
        f"{made.num_weights} weights, {len(made.inputs)} of {made.num_features} features. */",
        "#include <math.h>",
        "",
        f"#define POLICY_FEATURES {made.num_features}",
        f"#define POLICY_ACTIONS {len(made.motors)}",
        "",
        *([C_RECIPROCAL, ""] if "reciprocal" in dict(sum(made.functions, ())) else []),
        f"static {head} {{",
        *([] if names else ["    (void)observation;"]),
        *lines,
        *body,
        "}",
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def write_onnx(made: PlainPolicy, path: Path) -> None:
    """Writes an ONNX model from ``observation`` [batch, features] to ``action``."""
    from onnx import TensorProto, helper, numpy_helper, save

    constants, nodes = [], []

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"x{len(nodes)}"], **attributes))
        return nodes[-1].output[0]

    def constant(value: Any, kind: type = np.float32) -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    x = node("Gather", "observation", constant(made.inputs, np.int64), axis=1)
    x = node("Div", node("Sub", x, constant(made.mean)), constant(made.spread))
    x = node("Clip", x, constant(-made.clip), constant(made.clip))
    *hidden, (weights, biases) = made.layers
    for (w, b), groups in zip(hidden, made.functions, strict=True):
        x = node("Add", node("MatMul", x, constant(w)), constant(b))
        parts, start = [], 0
        for name, number in groups:
            units = constant(range(start, start + number), np.int64)
            part = node("Gather", x, units, axis=1) if len(groups) > 1 else x
            parts.append(FUNCTIONS[name].onnx(node, constant, part))
            start += number
        x = node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    x = node("Add", node("MatMul", x, constant(weights)), constant(biases))
    shape, kind = ["batch", len(made.motors)], TensorProto.FLOAT
    if made.discrete:
        x = node("ArgMax", x, axis=1, keepdims=0)
        shape, kind = ["batch"], TensorProto.INT64
    else:
        if made.output == "scale":
            half = node("Mul", node("Add", node("Tanh", x), constant(1)), constant(made.span / 2))
            inside = node("Add", half, constant(made.base))
            x = node("Where", constant(made.bounded, np.bool_), inside, x)
        elif made.output == "tanh":
            x = node("Tanh", x)
        x = node("Max", node("Min", x, constant(made.high)), constant(made.low))
    node("Identity", x)
    nodes[-1].output[0] = "action"
    graph = helper.make_graph(
        nodes,
        "policy",
        [
            helper.make_tensor_value_info(
                "observation", TensorProto.FLOAT, ["batch", made.num_features]
            )
        ],
        [helper.make_tensor_value_info("action", kind, shape)],
        constants,
    )
    model = helper.make_model(
        graph,
        producer_name="nesht_jax",
        producer_version=version("nesht-jax"),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    told = {"task": made.task, "sensors": list(made.sensors), "motors": list(made.motors)}
    helper.set_model_props(model, {name: json.dumps(value) for name, value in told.items()})
    save(model, path)


OPSET, IR_VERSION = 17, 8
"""Versions of ONNX that runtimes of the last years read."""


def write_jax(made: PlainPolicy, path: Path) -> None:
    """Writes what ``jax.export.deserialize`` reads: observations [batch, features] -> actions."""
    (batch,) = jax.export.symbolic_shape("batch")
    given = jax.ShapeDtypeStruct((batch, made.num_features), np.float32)
    act = jax.jit(jax.vmap(lambda observation: made(observation, jnp)))
    exported = jax.export.export(act, platforms=("cpu", "cuda", "tpu"))(given)
    path.write_bytes(exported.serialize())


def write_safetensors(made: PlainPolicy, path: Path) -> None:
    """Writes arrays, with all else as JSON in the metadata; ``read_safetensors`` reads it."""
    from safetensors.numpy import save

    plain = made._asdict()
    arrays = {name: plain.pop(name) for name in ARRAYS}
    for number, (weights, biases) in enumerate(plain.pop("layers")):
        arrays |= {f"layer{number}.weights": weights, f"layer{number}.biases": biases}
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    told = {name: json.dumps(finite(value)) for name, value in plain.items()}
    path.write_bytes(save(whole, told))


ARRAYS = ("inputs", "mean", "spread", "low", "high")
"""Arrays of a policy beside those of its layers."""


def read_safetensors(path: Path) -> PlainPolicy:
    """Reads the file that ``write_safetensors`` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
        told = {name: json.loads(text) for name, text in file.metadata().items()}
    number = sum(name.endswith(".weights") for name in arrays)
    layers = [(arrays[f"layer{i}.weights"], arrays[f"layer{i}.biases"]) for i in range(number)]
    told |= {name: tuple(told[name]) for name in ("sensors", "motors")}
    told["functions"] = tuple(
        tuple((name, number) for name, number in groups) for groups in told["functions"]
    )
    told["clip"] = np.inf if told["clip"] is None else told["clip"]
    return PlainPolicy(layers=tuple(layers), **told, **{name: arrays[name] for name in ARRAYS})


WRITERS: dict[str, tuple[str, Callable[[PlainPolicy, Path], None]]] = {
    "numpy": ("policy.py", write_numpy),
    "c": ("policy.h", write_c),
    "onnx": ("policy.onnx", write_onnx),
    "jax": ("policy.jax", write_jax),
    "safetensors": ("policy.safetensors", write_safetensors),
}
"""Format -> usual name of the file, and what writes it."""


def _functions(made: PlainPolicy) -> str:
    """For each hidden layer, functions and the units that have them, as Python."""
    layers = []
    for groups in made.functions:
        told, start = [], 0
        for name, number in groups:
            told.append(f"(lambda x: {FUNCTIONS[name].python}, slice({start}, {start + number}))")
            start += number
        layers.append(f"[{', '.join(told)}]")
    return f"[{', '.join(layers)}]"


def _array(values: Any) -> str:
    values = np.asarray(values)
    if not values.ndim:
        return f"float32({float(values)!r})"
    if not values.size:
        return f"np.zeros({values.shape}, float32)"
    kind = "bool" if values.dtype == bool else "float32"
    return f"array({values.tolist()!r}, {kind})"


def _comment(name: str) -> str:
    """A name that neither ends nor begins a comment or a string."""
    return "".join(c if c.isprintable() and c not in '"*\\' else " " for c in name)


def _c(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if any(c in text for c in ".e") else f"{text}.0f"


def _c_standard(i: int, mean: float, spread: float) -> str:
    if mean == 0 and spread == 1:
        return f"observation[{i}]"
    return f"(observation[{i}] - {_c(mean)}) / {_c(spread)}"


def _c_clip(inner: str, low: float, high: float) -> str:
    below = inner if np.isinf(high) else f"fminf({inner}, {_c(high)})"
    return below if np.isinf(low) else f"fmaxf({below}, {_c(low)})"


def _c_sums(names: list[str], weights: np.ndarray, biases: np.ndarray) -> list[str]:
    return [
        " + ".join(
            [_c(bias)] + [f"{_c(w)} * {n}" for w, n in zip(column, names, strict=True) if w]
        ).replace("+ -", "- ")
        for column, bias in zip(weights.T.tolist(), biases.tolist(), strict=True)
    ]


def _c_action(output: str, total: str, low: float, high: float) -> str:
    if output == "scale" and np.isfinite(low) and np.isfinite(high):
        half = _c((high - low) / 2)
        total = f"{_c(low)} + (tanhf({total}) + 1.0f) * {half}"
    elif output == "tanh":
        total = f"tanhf({total})"
    return _c_clip(total, low, high)


def _c_choice(made: PlainPolicy, sums: list[str]) -> list[str]:
    pairs = zip(sums, made.motors, strict=True)
    scores = [f"        {total},  /* {_comment(motor)} */" for total, motor in pairs]
    return [
        "    const float score[POLICY_ACTIONS] = {",
        *scores,
        "    };",
        "    int best = 0;",
        "    for (int i = 1; i < POLICY_ACTIONS; i++)",
        "        if (score[i] > score[best]) best = i;",
        "    return best;",
    ]
