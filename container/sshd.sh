#!/bin/sh
# mlperf-sshd: listen for SSH as the user that this runs as. The host's key is new with each container.
set -eu
umask 077
mkdir -p /tmp/mlperf-sshd
[ -e /tmp/mlperf-sshd/host_key ] || ssh-keygen -q -t ed25519 -N "" -f /tmp/mlperf-sshd/host_key
exec /usr/sbin/sshd -D -e -f /etc/ssh/mlperf_sshd_config "$@"
