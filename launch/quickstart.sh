#!/usr/bin/env bash
# From a fresh clone to a trained network: makes .venv, installs, trains. Flags are passed on to dydist/train.py:
#   bash launch/quickstart.sh                                          digits, about two minutes on two cores
#   bash launch/quickstart.sh --config launch/recipes/cifar10.yaml     the real thing (wants a GPU)
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "dydist needs Python 3.10 or newer; set PYTHON to one" >&2
  exit 2
fi
if [ ! -x .venv/bin/accelerate ] || ! .venv/bin/python -c 'import dydist, sklearn' 2>/dev/null; then
  echo "Installing into .venv (about 1 GB with a CPU torch) …"
  "$python" -m venv .venv
  # on a machine with a GPU the newest torch that suits it is taken, else the tested one
  if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then constraints=(); else constraints=(-c constraints.txt); fi
  .venv/bin/pip install --quiet ${constraints[@]+"${constraints[@]}"} -e '.[demo]'
fi
config=(--config launch/recipes/quickstart.yaml)
for argument in "$@"; do
  case "$argument" in --config | --config=* | --help | -h) config=() ;; esac
done
.venv/bin/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
  dydist/train.py ${config[@]+"${config[@]}"} "$@"
cat <<'TEXT'

Look at the curves:   .venv/bin/tensorboard --logdir runs
Train on CIFAR-10:    bash launch/quickstart.sh --config launch/recipes/cifar10-small.yaml   (CPU)
                      bash launch/quickstart.sh --config launch/recipes/cifar10.yaml         (GPU)
Two processes:        .venv/bin/accelerate launch --config_file launch/cpu_2.yaml dydist/train.py --config launch/recipes/quickstart.yaml --run.name two
TEXT
