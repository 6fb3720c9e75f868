#!/usr/bin/env bash
# The CPU study of docs/results.md, made again: bash docs/cpu_study.sh DATA_ROOT [WORK_FOLDER]
#
# Static against dynamic convolutions, and the ablations of the original work, on real CIFAR-10, as job arrays on the
# one-host SLURM cluster. About four hours on two cores. Killed at any moment, the same command goes on: finished runs
# are left out, the others resume from their newest checkpoints. DATA_ROOT holds cifar-10-batches-py.
set -euo pipefail
data=$(realpath "$1")
work=$(realpath -m "${2:-runs/study}")
cd "$(dirname "$0")/.."
mkdir -p "$work"

slurm/testcluster down --dir "$work/cluster" >/dev/null 2>&1 || true
rm -rf "$work/cluster" # and with it what was queued: what is not done is submitted again
eval "$(slurm/testcluster up --dir "$work/cluster" --nodes 2 --cpus 1)"
trap 'slurm/testcluster down --dir "$work/cluster"' EXIT
# One core a run. A machine that is also used for other things may let a run wait long: that is no hang.
cat >"$work/profile.yaml" <<EOF
partition: low
time: "4:00:00"
gpus_per_node: 0
cpus_per_task: 1
preflight: "off"
hang_timeout_s: 7200
start_timeout_s: 7200
env: {OMP_NUM_THREADS: "1"}
EOF

sweep() { # NAME, then arguments of dydist sweep; recipe and flags after --
  dydist sweep --name "$1" --profile "$work/profile.yaml" --seeds 3 --parallel 2 "${@:2}" \
    --parallel.reduce fast --run.dir "$work" --data.root "$data" --monitor.quiet true --monitor.every_steps 50 \
    --checkpoint.every_minutes 3 --checkpoint.keep 1
}
small=(-- launch/recipes/cifar10-small.yaml)
# The ablations: an eighth of the width, 10,000 training images.
tiny=("${small[@]}" --model.width 0.125 --data.limit 10000)
sweep kind --grid model.kind=static,dynamic "${small[@]}"
sweep temperature --grid temperature.start=30,1 "${tiny[@]}"
sweep hot --grid temperature.end=30 "${tiny[@]}"
sweep kernels --grid model.kernels=2,8 "${tiny[@]}"
sweep attention --grid model.attention=sigmoid "${tiny[@]}"
sweep tiny-static --grid model.kind=static "${tiny[@]}"
until [ -z "$(squeue --noheader)" ]; do
  squeue --noheader --states=running --format "%j %M" | sort | paste -sd ';'
  sleep 60
done

dydist compare "$work/kind" --csv "$work/kind.csv"
dydist compare "$work"/{temperature,hot,kernels,attention,tiny-static} --csv "$work/ablations.csv"
