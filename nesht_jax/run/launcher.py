"""What a launcher tells a process of the others of its run, in its environment.

JAX is not imported: a command asks here before that is.
"""

from collections.abc import Mapping
from typing import NamedTuple

LOST = 75
"""Exit code of a process that has lost another; EX_TEMPFAIL, to be started again."""

VARIABLES = (
    ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"),
    ("MASTER_ADDR", "WORLD_SIZE", "RANK"),
)
"""Where the first process is, how many there are, and which this one is: Kubeflow's and one's own;
torchrun's, whose port is that after ``MASTER_PORT``."""


class LostProcessError(Exception):
    """Another process of the run does not answer."""


class Place(NamedTuple):
    """Place of a process among those of its run.

    Attributes:
        coordinator: address of the first process, with its port; None: Slurm tells JAX.
        number: processes of the run.
        process: number of this process; of Slurm None, likewise.
        local_devices: devices of the machine that are this process's; None: those JAX chooses.
    """

    coordinator: str | None
    number: int
    process: int | None
    local_devices: tuple[int, ...] | None = None


def place_of(environ: Mapping[str, str]) -> Place | None:
    """Reads what a launcher has told; None where there is one process.

    Raises:
        ValueError: in one sentence, if it tells of several, and not which this one is; or if their
            number is no power of two.
    """
    for address, number, index in VARIABLES:
        if environ.get(number, "1") == "1":
            continue
        port = ["MASTER_PORT"] if address == "MASTER_ADDR" else []
        told = environ[number]
        if missing := [name for name in (address, index, *port) if not environ.get(name)]:
            raise ValueError(f"{number} is {told} without {' and '.join(missing)}")
        if wrong := [name for name in (number, index, *port) if not environ[name].isdigit()]:
            raise ValueError(f"{wrong[0]} must be a whole number, got {environ[wrong[0]]!r}")
        if int(environ[index]) >= int(told):
            raise ValueError(f"{index} must be below {number}, {told}, got {environ[index]}")
        where = environ[address]
        if port:
            where = f"{where}:{int(environ['MASTER_PORT']) + 1}"
        return _checked(Place(where, int(told), int(environ[index]), _devices(environ)))
    # of the step alone: a shell or a batch script within an allocation is one process
    tasks = environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdigit() or int(tasks) < 2:
        return None
    return _checked(Place(None, int(tasks), None, _devices(environ)))


def _checked(place: Place) -> Place:
    if place.number & (place.number - 1):
        raise ValueError(f"the processes of a run must be a power of two, got {place.number}")
    return place


def _devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    told = environ.get("JAX_LOCAL_DEVICE_IDS")
    if not told:
        return None
    if not all(part.isdigit() for part in told.split(",")):
        raise ValueError(f"JAX_LOCAL_DEVICE_IDS must be numbers as 0,1,2, got {told!r}")
    return tuple(int(part) for part in told.split(","))
