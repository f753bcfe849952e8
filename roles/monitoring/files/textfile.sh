#!/bin/sh
# Writes nvidia-smi's figures in Prometheus's text format: textfile.sh FILE
set -eu
fields=index,utilization.gpu,memory.used,power.draw,clocks.sm,temperature.gpu
nvidia-smi --query-gpu="$fields" --format=csv,noheader,nounits | awk -F', *' '
  BEGIN { split("utilization_percent memory_used_mebibytes power_watts sm_clock_megahertz temperature_celsius", name, " ") }
  { for (at = 2; at <= NF; at++) if ($at ~ /^[0-9.]+$/) line[at] = line[at] sprintf("mlperf_gpu_%s{gpu=\"%s\"} %s\n", name[at - 1], $1, $at) }
  END { for (at = 2; at <= 6; at++) if (line[at]) printf "# TYPE mlperf_gpu_%s gauge\n%s", name[at - 1], line[at] }' > "$1.$$"
chmod 644 "$1.$$"
mv "$1.$$" "$1"
