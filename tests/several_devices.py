"""What ``test_shares`` looks at, computed on several devices of one process; printed as JSON."""

import json
import re
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from rich.console import Console

from nesht_jax import (
    Moments,
    by_running_moments,
    hard_thresholding,
    make_config,
    make_evaluate,
    make_generation,
    make_mesh,
    make_policy,
    make_task,
    nesht,
    shared,
    shared_noise,
    train,
)
from nesht_jax.run.checkpoint import digest
from nesht_jax.shares import AXIS, sum_across, tree_sum

MEMBERS, SHARES, COUNTS = 64, 8, (1, 2, 4, 8)


def generation_of(task, devices, *, shares=SHARES):
    """A generation over so many devices, and the state before the first."""
    policy = make_policy(task, hidden=(4,), normalize=by_running_moments())
    mesh = make_mesh(shares, jax.devices()[:devices])
    played = make_evaluate(task, policy, num_members=MEMBERS // shares, common_random_numbers=True)
    algorithm = nesht(
        num_members=MEMBERS,
        sigma=0.1,
        optimizer=optax.adam(0.05),
        sum_noise=shared_noise(mesh, shares),
    )
    evaluate = shared(played, mesh=mesh, num_members=MEMBERS, shares=shares)
    moments = Moments.empty(task.num_features)
    state = algorithm.init(jax.random.key(0), policy.init(jax.random.key(1)), moments=moments)
    return make_generation(algorithm, evaluate), state


def bits_of(state):
    return digest(state._replace(key=jax.random.key_data(state.key)))


def states():
    """Digest of the state after some generations, by task and devices."""
    linear = make_task("probe/linear", distractors=3)
    hopper = make_task("brax/hopper", horizon=10, options={"backend": "spring"})
    found = {}
    for name, task, length, counts in (
        ("probe/linear", linear, 20, COUNTS),
        ("brax/hopper", hopper, 2, (2, 8)),
    ):
        for devices in counts:
            generation, state = generation_of(task, devices)
            run = jax.jit(
                lambda s, g=generation, n=length: jax.lax.scan(lambda t, _: g(t), s, length=n)
            )
            found[f"{name} {devices}"] = bits_of(run(state)[0])
    return found


METHODS = {
    "selection": {"sparsity": {"method": "selection", "every": 2}},
    "hard_threshold": {
        "sparsity": {
            "method": "hard_threshold",
            "fraction": 0.5,
            "unit": "row",
            "explore": 0.1,
            "every": 2,
        }
    },
    "rigl": {"sparsity": {"method": "rigl", "fraction": 0.5, "every": 2}},
    "evolution": {"search": {"space": ["edges"], "edges": 6, "num_center": 16}},
    "policy_gradient": {
        "search": {"space": ["mask"], "controller": "policy_gradient", "num_center": 16}
    },
}
"""What runs do beside plain evolution strategies."""


def methods():
    """Digest of the state after a run of each method, on all devices that there are."""
    found = {}
    for name, changes in METHODS.items():
        with tempfile.TemporaryDirectory() as folder:
            config = make_config(
                "probe/linear",
                distractors=3,
                algorithm={"num_members": MEMBERS},
                policy={"hidden": [8]},
                evaluation={"every": 4, "episodes": SHARES},
                generations=6,
                shares=SHARES,
                out=f"{folder}/run",
                **changes,
            )
            found[name] = bits_of(train(config, console=Console(quiet=True)).state)
    return found


def sums():
    """Whether the sum over devices has the bits of the tree."""
    same = {}
    for devices in COUNTS:
        for d in (1, 7, 1003):
            parts = jax.random.normal(jax.random.key(d), (devices, d))
            mesh = make_mesh(devices, jax.devices()[:devices])
            across = jax.jit(
                jax.shard_map(
                    lambda x, n=devices: sum_across(x[0], n),
                    mesh=mesh,
                    in_specs=PartitionSpec(AXIS),
                    out_specs=PartitionSpec(),
                    check_vma=False,
                )
            )
            same[f"{devices} {d}"] = bool(jnp.array_equal(across(parts), tree_sum(parts)))
    return same


def compiled():
    """Flops of a device, and bytes that go between devices, of a generation with a share each."""
    task = make_task("probe/linear", distractors=3)
    found = {}
    for devices in COUNTS:
        generation, state = generation_of(task, devices, shares=devices)
        program = jax.jit(generation).lower(state).compile()
        text = program.as_text()
        found[devices] = {
            "flops": program.cost_analysis()["flops"],
            "bytes": moved(text),
            "loops": len(loop_bodies(text)),
            "in_loops": [line for name in loop_bodies(text) for line in collectives(name, text)],
        }
    d = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return {
        "devices": found,
        "control": looping(),
        "d": d,
        "features": task.num_features,
        "members": MEMBERS,
    }


def sharded():
    """Updates of a state whose weights and moments lie on eight devices."""
    return {
        "weight": sharded_by(unit="weight"),
        "row": sharded_by(unit="row"),
        "explore": sharded_by(explore=0.5),
        "support": sharded_by(every=2, end=9),
    }


def sharded_by(**chosen):
    """An update of a state of which every device holds a part of the weights and moments."""
    params = {"layer0": {"kernel": jnp.zeros((1024, 16)), "bias": jnp.zeros(16)}}
    momentum = optax.sgd(0.01, momentum=0.9)
    optimizer = optax.chain(momentum, hard_thresholding(sparsity=0.9, **chosen))
    algorithm = nesht(num_members=16, sigma=0.1, optimizer=optimizer)
    state = algorithm.init(jax.random.key(0), params)
    fitness = jax.random.normal(jax.random.key(1), (16,))
    mesh = jax.make_mesh((8,), ("weights",), axis_types=(AxisType.Explicit,))
    whole, parts = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in ((), ("weights",)))

    def place(x):
        return jax.device_put(x, parts if jnp.ndim(x) else whole)

    cut = state._replace(
        params=jax.tree.map(place, state.params), optimizer=jax.tree.map(place, state.optimizer)
    )
    with jax.set_mesh(mesh):
        program = jax.jit(algorithm.tell).lower(cut, fitness).compile()
        after, _ = program(cut, fitness)
    kept = after.params, after.optimizer
    return {
        "same": bits_of(after) == bits_of(jax.jit(algorithm.tell)(state, fitness)[0]),
        "bytes": moved(program.as_text()),
        "whole": sum(x.sharding.is_fully_replicated for x in jax.tree.leaves(kept) if x.ndim),
    }


def looping():
    """Collectives that are found in a loop which has one."""
    whole = PartitionSpec()

    def on_device(x):
        return jax.lax.fori_loop(0, 9, lambda i, y: jnp.sin(jax.lax.psum(y, AXIS)), x)

    rules = {"mesh": make_mesh(8), "in_specs": whole, "out_specs": whole, "check_vma": False}
    text = jax.jit(jax.shard_map(on_device, **rules)).lower(jnp.ones(3)).compile().as_text()
    return [line for name in loop_bodies(text) for line in collectives(name, text)]


def compilations():
    """Programs compiled by a run up to each of its evaluations, and the shares that it took."""
    compiled, told = [], []

    def note(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(note)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            "probe/linear",
            algorithm={"num_members": MEMBERS},
            evaluation={"every": 2, "episodes": SHARES},
            generations=10,
            out=f"{folder}/run",
        )
        quiet = Console(quiet=True)
        result = train(config, console=quiet, on_evaluation=lambda row: told.append(len(compiled)))
    return {"compiled": told, "shares": result.config.shares}


COLLECTIVE = re.compile(
    r"= (\S+|\(.*?\)) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)"
    r"(-start)?\("
)
SIZES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1, "f64": 8, "s64": 8, "u8": 1}


def moved(text):
    """Bytes that the results of collectives hold, by kind."""
    total = {}
    for shape, kind, _ in COLLECTIVE.findall(text):
        for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shape):
            size = int(np.prod([int(n) for n in sizes.split(",") if n])) * SIZES[dtype]
            total[kind] = total.get(kind, 0) + size
    return total


def computations(text):
    """Name of each computation of a program -> its text."""
    return {
        m[1]: m[2]
        for m in re.finditer(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\{\n(.*?)^\}", text, re.M | re.S)
    }


def loop_bodies(text):
    """Names of all computations that a loop comes to."""
    parts = computations(text)
    reached, waiting = set(), set(re.findall(r"(?:body|condition)=%?([\w.\-]+)", text))
    while waiting:
        name = waiting.pop()
        reached.add(name)
        called = re.findall(r"=\{?%?([\w.\-]+)", parts.get(name, ""))
        waiting |= {c for c in called if c in parts} - reached
    return reached


def collectives(name, text):
    return [m[0] for m in COLLECTIVE.finditer(computations(text).get(name, ""))]


if __name__ == "__main__":
    print(json.dumps({name: globals()[name]() for name in sys.argv[1:]}))
