#!/bin/sh
# numa.sh DIR: put libnuma, which vLLM's CPU build loads, into the environment DIR where the system has none; as any user.
set -eu
"$1/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null && exit 0
sh "$(dirname "$0")/deb.sh" libnuma1 "$1/debian" || {
  rm -rf "$1/debian"
  echo "vLLM's CPU build needs libnuma.so.1, and its package cannot be downloaded: apt-get install libnuma1" >&2
  exit 3
}
mv "$1"/debian/usr/lib/*/libnuma.so.1* "$1/lib/"
rm -rf "$1/debian"
