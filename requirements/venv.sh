#!/bin/sh
# venv.sh PYTHON DIR: make a virtual environment with pip in it, also on a Debian without python3-venv; as any user.
set -eu
python=$1
dir=$2
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || {
  echo "$python is $("$python" --version 2>&1); the pins are for 3.11 to 3.13: install one, then name it: make PYTHON=python3.12, or harness_python in the inventory" >&2
  exit 3
}
echo "Making the Python environment $dir"
if "$python" -c 'import ensurepip' 2>/dev/null; then
  exec "$python" -m venv "$dir"
fi
# Debian keeps pip in a package of its own. Its wheel is unpacked here; nothing is installed on the system.
"$python" -m venv --without-pip "$dir"
sh "$(dirname "$0")/deb.sh" python3-pip-whl "$dir/debian" || {
  rm -rf "$dir"
  echo "Python has no venv module here and its package cannot be downloaded: apt-get install python3-venv" >&2
  exit 3
}
PYTHONPATH=$(echo "$dir"/debian/usr/share/python-wheels/pip-*.whl) "$dir/bin/python" -m pip install --quiet pip
rm -rf "$dir/debian"
