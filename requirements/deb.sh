#!/bin/sh
# deb.sh PACKAGE DIR: unpack a Debian package below DIR, as any user; nothing is installed on the system.
set -eu
mkdir -p "$2"
cd "$2"
fetch() { apt-get -qq download "$1" 2>/dev/null; }
# Another process, such as unattended-upgrades, may have the lock of apt's lists: it is waited for, two minutes at most.
update() {
  tries=24
  until output=$(LC_ALL=C apt-get -qq update 2>&1); do
    tries=$((tries - 1))
    case $output in
      *"ould not get lock"*) [ "$tries" -gt 0 ] || { echo "still locked after 2 minutes: $output" >&2; return 1; } ;;
      *) echo "$output" >&2; return 1 ;;
    esac
    [ "$tries" -lt 23 ] || echo "Waiting for apt: $output" >&2
    sleep 5
  done
}
fetch "$1" || { [ "$(id -u)" = 0 ] && update && fetch "$1"; } || exit 1
dpkg -x "$1"_*.deb .
rm "$1"_*.deb
