#!/bin/sh
# deb.sh PACKAGE DIR: unpack a Debian package below DIR, as any user; nothing is installed on the system.
set -eu
mkdir -p "$2"
cd "$2"
fetch() { apt-get -qq download "$1" 2>/dev/null; }
fetch "$1" || { [ "$(id -u)" = 0 ] && apt-get -qq update && fetch "$1"; }
dpkg -x "$1"_*.deb .
rm "$1"_*.deb
