"""A cluster to try by hand: `python -m tests.cluster --claim runs-n1=/tmp/runs --image IMAGE=FOLDER`, until Ctrl-C."""

import argparse
import contextlib
import threading
from pathlib import Path

from tests.cluster import Cluster


def main() -> None:
    """Start it, print its address, and wait."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--namespace", default="mlperf")
    parser.add_argument("--node", action="append", default=[], metavar="NAME=GPUS", help="n1=1 when not given")
    parser.add_argument("--claim", action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument(
        "--image", action="append", default=[], metavar="REFERENCE=FOLDER", help="folder of its commands"
    )
    options = parser.parse_args()
    with Cluster(options.namespace) as cluster:
        for node in options.node or ["n1=1"]:
            name, _, gpus = node.partition("=")
            cluster.node(name, gpus=int(gpus or 0))
        for claim in options.claim:
            name, _, folder = claim.partition("=")
            cluster.claim(name, Path(folder).absolute())
        for image in options.image:
            reference, _, folder = image.rpartition("=")
            cluster.image(reference, [Path(folder).absolute()])
        cluster.runtime_class()
        print(f"export KUBECONFIG={cluster.kubeconfig()}  # {cluster.url}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
