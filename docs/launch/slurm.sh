#!/bin/bash
# A run on two nodes of four GPUs, a process a GPU:  sbatch slurm.sh mine.yaml runs/mine
# After a fault or a signal Slurm starts it again, and it goes on.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

# A task that fails ends the others at once. Do not give a task one GPU alone by --gpus-per-task:
# JAX chooses the GPU of a process by its number on the node.
exec srun --kill-on-bad-exit=1 nesht train "$1" --out "$2" --resume auto
