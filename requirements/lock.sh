#!/bin/sh
# Resolve the pins again (needs `uv`); run it after changing a .in file, then run all tests.
# TORCH_LINKS: a folder or page that lists PyTorch's CPU wheels.
set -eu
cd "$(dirname "$0")/.."
lock() {
  name=$1
  shift
  uv pip compile "requirements/$name.in" --output-file "requirements/$name.txt" --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet "$@"
}
lock engine-cpu --override requirements/engine-cpu.overrides --no-emit-package torch --find-links "${TORCH_LINKS:?}"
lock engine-cuda
lock deepspeed --no-deps
# One process of the tests imports both sides, so both carry the same versions of what they share.
lock controller --override requirements/controller.overrides --constraint requirements/engine-cpu.txt
lock torchx --no-deps --constraint requirements/controller.txt
lock dev --override requirements/controller.overrides --constraint requirements/controller.txt --constraint requirements/engine-cpu.txt
