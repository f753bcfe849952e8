#!/bin/sh
# install.sh PYTHON LOCK…: install what these locks pin, by their hashes: with uv where there is one, which takes a sixth of
# the time, else with pip. A machine that tells pip where to look has pip look there: uv does not read pip's variables.
set -eu
python=$1
shift
for lock; do
  set -- "$@" --requirement "$lock"
  shift
done
if [ -z "${PIP_INDEX_URL:-}${PIP_NO_INDEX:-}" ] && command -v uv >/dev/null; then
  uv pip install --quiet --python "$python" --no-deps --require-hashes "$@" && exit
  echo "uv could not install it; trying pip" >&2
fi
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
"$python" -m pip install --disable-pip-version-check --progress-bar off --no-deps --require-hashes "$@" 2>"$errors" && code=0 || code=$?
cat "$errors" >&2
# On a node, where this file stands alone, the job says why; here it is said at once.
explain=$(dirname "$0")/../harness/pip_failure.py
[ $code = 0 ] || [ ! -f "$explain" ] || "$python" "$explain" <"$errors" >&2
exit $code
