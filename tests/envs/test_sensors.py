"""Names of features and actions, against the models that are named."""

import gymnasium
import numpy as np
import pytest

from nesht_jax.envs import catalog, sensors
from nesht_jax.envs.sensors import names_of
from nesht_jax.envs.tasks import make_task

WORDS = {
    "Hopper-v5": {"thigh_joint": "thigh", "leg_joint": "leg", "foot_joint": "foot"},
    "HalfCheetah-v5": {
        "bthigh": "back thigh",
        "bshin": "back shin",
        "bfoot": "back foot",
        "fthigh": "front thigh",
        "fshin": "front shin",
        "ffoot": "front foot",
    },
    "Walker2d-v5": {
        "thigh_joint": "right thigh",
        "leg_joint": "right leg",
        "foot_joint": "right foot",
        "thigh_left_joint": "left thigh",
        "leg_left_joint": "left leg",
        "foot_left_joint": "left foot",
    },
    "Swimmer-v5": {"motor1_rot": "first joint", "motor2_rot": "second joint"},
    "Ant-v5": {
        f"{joint}_{i + 1}": f"{leg} {joint}"
        for i, leg in enumerate(("front left", "front right", "back left", "back right"))
        for joint in ("hip", "ankle")
    },
    "Humanoid-v5": {
        "abdomen_z": "abdomen yaw",
        "abdomen_y": "abdomen pitch",
        "abdomen_x": "abdomen roll",
        **{
            f"{side}_{joint}": f"{side} {words}"
            for side in ("right", "left")
            for joint, words in (
                ("hip_x", "hip roll"),
                ("hip_z", "hip yaw"),
                ("hip_y", "hip pitch"),
                ("knee", "knee"),
                ("shoulder1", "shoulder 1"),
                ("shoulder2", "shoulder 2"),
                ("elbow", "elbow"),
            )
        },
    },
    "InvertedDoublePendulum-v5": {"hinge": "first pole", "hinge2": "second pole"},
    "Reacher-v5": {"joint0": "shoulder", "joint1": "elbow"},
    "Pusher-v5": {
        "r_shoulder_pan_joint": "shoulder pan",
        "r_shoulder_lift_joint": "shoulder lift",
        "r_upper_arm_roll_joint": "upper arm roll",
        "r_elbow_flex_joint": "elbow flex",
        "r_forearm_roll_joint": "forearm roll",
        "r_wrist_flex_joint": "wrist flex",
        "r_wrist_roll_joint": "wrist roll",
    },
}
"""Task -> joint of its model -> our word for it."""

ENTRIES = [entry for entry in catalog.entries() if entry.observation and entry.image is None]


@pytest.fixture
def shaken(request):
    """An environment whose joints all stand, and move, differently; and what it then shows."""
    env = gymnasium.make(request.param).unwrapped
    env.reset(seed=0)
    model = env.model
    env.set_state(0.3 + 0.01 * np.arange(model.nq), 0.5 + 0.1 * np.arange(model.nv))
    seen = env._get_obs()
    told = names_of(request.param, num_features=len(seen), num_actions=model.nu)
    yield request.param, env.data, dict(zip(told.features, seen, strict=True)), told.actions
    env.close()


@pytest.mark.parametrize("shaken", WORDS, indirect=True)
def test_a_joint_is_seen_and_moved_under_its_name(shaken):
    task, data, shown, actions = shaken
    model = data.model
    for name, words in WORDS[task].items():
        joint = model.joint(name)
        assert shown[f"{words} rate"] == data.qvel[joint.dofadr[0]]
        if words in shown:
            assert shown[words] == data.qpos[joint.qposadr[0]]
        else:
            assert shown[f"sine {words}"] == np.sin(data.qpos[joint.qposadr[0]])
            assert shown[f"cosine {words}"] == np.cos(data.qpos[joint.qposadr[0]])
    if len(actions) > 1:
        moved = [model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu)]
        assert actions == tuple(WORDS[task][name] for name in moved)


@pytest.mark.parametrize("shaken", ["Hopper-v5", "HalfCheetah-v5", "Walker2d-v5"], indirect=True)
def test_a_body_in_a_plane(shaken):
    _, data, shown, _ = shaken
    assert (shown["height"], shown["pitch"]) == tuple(data.qpos[1:3])
    rates = ("forward velocity", "vertical velocity", "pitch rate")
    assert tuple(shown[name] for name in rates) == tuple(data.qvel[:3])


@pytest.mark.filterwarnings("ignore:.*Humanoid-v4 is out of date:DeprecationWarning")
@pytest.mark.parametrize("shaken", ["Ant-v5", "Humanoid-v5", "Humanoid-v4"], indirect=True)
def test_a_free_body_and_its_forces(shaken):
    task, data, shown, _ = shaken
    model = data.model
    assert shown["height"] == data.qpos[2]
    assert [shown[f"orientation {axis}"] for axis in "wxyz"] == list(data.qpos[3:7])
    assert [shown[f"{axis} rate"] for axis in ("roll", "pitch", "yaw")] == list(data.qvel[3:6])
    last = model.nbody - 1
    body = {"Ant": "back right lower leg", "Humanoid": "left lower arm"}[task.split("-")[0]]
    expected = np.clip(data.cfrc_ext[last], -1, 1) if task == "Ant-v5" else data.cfrc_ext[last]
    axes = [f"{body} {what} {axis}" for what in ("torque", "force") for axis in "xyz"]
    assert [shown[name] for name in axes] == list(expected)
    if task.startswith("Humanoid"):
        assert shown["right shin mass"] == data.cinert[model.body("right_shin").id, -1]
        assert shown["torso velocity z"] == data.cvel[model.body("torso").id, -1]
        torque = data.qfrc_actuator[model.joint("left_elbow").dofadr[0]]
        assert shown["left elbow torque"] == torque


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.task)
def test_names_are_as_many_as_what_they_name(entry):
    told = names_of(entry.name, num_features=entry.observation, num_actions=entry.actions)
    assert len(told.features) in (0, entry.observation)
    assert len(set(told.features)) == len(told.features)
    if entry.suite in ("envpool", "mjx"):
        assert told.features and len(told.actions) == entry.actions


def test_another_size_has_no_names():
    assert names_of("Hopper-v5", num_features=12, num_actions=3) == ((), ("thigh", "leg", "foot"))
    assert names_of("Unheard-v0", num_features=1, num_actions=1) == sensors.Names()


def test_memory_and_distractors_of_a_task():
    task = make_task("envpool/Pong-v5", options={"observation": "ram"})
    assert task.feature_names[127] == "byte 127"
    assert make_task("envpool/Pong-v5").feature_names == ()
    assert make_task("envpool/Hopper-v5", distractors=2).action_names == ("thigh", "leg", "foot")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"feature_names": ("a", "b")}, "must be 4 names, got 2"),
        ({"action_names": "push"}, "must be a list of names, got 'push'"),
        ({"action_names": 3}, "must be a list of names, got 3"),
    ],
)
def test_names_that_an_environment_tells(told, message, monkeypatch):
    cart = gymnasium.spec("CartPole-v1").entry_point
    kind = gymnasium.envs.registration.load_env_creator(cart)
    monkeypatch.setattr(kind, "metadata", kind.metadata | {"feature_names": tuple("abcd")})
    assert make_task("gymnasium/CartPole-v1").feature_names == tuple("abcd")
    monkeypatch.setattr(kind, "metadata", kind.metadata | told)
    with pytest.raises(ValueError, match=message):
        make_task("gymnasium/CartPole-v1")
