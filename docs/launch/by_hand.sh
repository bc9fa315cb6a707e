#!/bin/bash
# Two processes on this machine, as a trial of several:  bash by_hand.sh mine.yaml runs/mine
# On two machines start one on each, with the address of the first.
export JAX_COORDINATOR_ADDRESS=127.0.0.1:8476 JAX_NUM_PROCESSES=2
for i in 0 1; do
  JAX_PROCESS_ID=$i nesht train "$1" --out "$2" --resume auto &
  pids[i]=$!
done
trap 'kill "${pids[@]}"' INT TERM
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
