# Sourced by the scripts of this folder: the root of the clone, its interpreter, a temporary folder that goes.
# PYTHON names the interpreter; unset, it is that of the clone's .venv, or else python3.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  if [[ -x $root/.venv/bin/python ]]; then PYTHON=$root/.venv/bin/python; fi
fi
export PYTHON
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cd "$root"
