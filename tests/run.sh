#!/usr/bin/env bash
# Sets up and runs the suite: bash tests/run.sh [pytest arguments]. DYDIST_VENV names another environment.
# Without arguments it runs the whole, two tests at a time.
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
venv=${DYDIST_VENV:-.venv}
stamp=$venv/.dydist-test-$(cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
  echo "Installing into $venv …"
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install --quiet -c constraints.txt torch numpy setuptools
  DS_BUILD_OPS=0 "$venv/bin/pip" install --quiet -c constraints.txt -e '.[test]'
  touch "$stamp"
fi
PATH="$(cd "$venv/bin" && pwd):$PATH"
export PATH
[ $# -gt 0 ] || set -- -n 2 --dist loadfile
exec "$venv/bin/python" -m pytest "$@"
