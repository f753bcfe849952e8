# Copyright: the MLPerf distributed authors
# SPDX-License-Identifier: Apache-2.0
"""Packs the harness of this checkout for nodes and for the node image."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath

from ansible.plugins.loader import action_loader

OPTIONS = """
source:
  description: The checkout, unless there is an O(archive).
  type: path
path:
  description: Directory for the archive.
  type: path
archive:
  description: What this plugin has returned, once for all hosts; it is not packed again.
  type: dict
  default: {}
environment:
  description: The environment on a node that the harness and its engine are installed into.
  type: dict
  suboptions:
    path:
      description: Folder of the environment.
      type: path
      required: true
    staging:
      description: Folder on the node for the archive and the files.
      type: path
      required: true
    requirements:
      description: Folder of the pinned requirements here.
      type: path
      required: true
    build:
      description: Which build of vLLM.
      type: str
      choices: [cpu, cuda]
      required: true
    deepspeed:
      description: Whether DeepSpeed is installed beside it.
      type: bool
      default: false
    python:
      description: Python that the environment is made with.
      type: str
      default: python3
    torch_index:
      description: Index of PyTorch's CPU wheels, asked for torch alone when the configured sources have none.
      type: str
      default: https://download.pytorch.org/whl/cpu
image:
  description: The node image that is built from the archive and the files of this checkout.
  type: dict
  suboptions:
    root:
      description: Folder of the build on the host that builds.
      type: path
      required: true
    name:
      description: Name of the image, without a tag.
      type: str
      required: true
    containerfile:
      description: The recipe, here.
      type: path
      required: true
    base:
      description: The base image.
      type: str
      required: true
    engine:
      description: Which build of vLLM.
      type: str
      choices: [cpu, cuda]
      required: true
    arguments:
      description: Further build arguments.
      type: dict
      default: {}
    options:
      description: Further options of buildah build.
      type: list
      elements: str
      default: []
"""
NAME = "mlperf-distributed-harness"


class ActionModule(action_loader.get("mlperf_base", class_only=True)):
    """Writes a source archive that pip installs, where it is missing: same content, same bytes, same name.

    In check mode nothing is written; the diff shows the archive's name.
    """

    options = OPTIONS

    def work(self, arguments):
        """`file` and `sha256` of the archive.

        With `environment` also `steps`, the commands that install it, as mlperf_background_job takes them, and `files`,
        the names of the requirements that they need on the node; in check mode `pending` as well, how many of the steps
        are not done on the host, and whether vLLM is among them, `installs_engine`. With `image` also how it is built:
        `inputs`, its tag, is a hash of all that it is built from; `command` writes its id to `id_file`; the archive is
        unpacked into `context`; each of `files` has a `source` here and a `target` there, in one of `folders`.
        """
        from harness.benchmark import image, install, source
        from harness.files import write_atomic

        if arguments["archive"]:
            file, sha256 = Path(arguments["archive"]["file"]), arguments["archive"]["sha256"]
            result = {"changed": False, "file": str(file), "sha256": sha256}
        else:
            content = source.archive(Path(arguments["source"]), NAME)
            sha256 = hashlib.sha256(content).hexdigest()
            file = Path(arguments["path"], f"{NAME}-{sha256[:12]}.tar.gz")
            changed = not file.exists()
            if changed and not self.check_mode:
                write_atomic(file, content)
            diff = {"before": "" if changed else f"{file}\n", "after": f"{file}\n"}
            result = {"changed": changed, "file": str(file), "sha256": sha256, "diff": diff}
        if environment := arguments["environment"]:
            path, staging = PurePosixPath(environment.pop("path")), PurePosixPath(environment.pop("staging"))
            requirements = Path(environment.pop("requirements"))
            result["files"] = install.files(environment["build"], deepspeed=environment["deepspeed"])
            result["steps"] = install.steps(path, staging, file.name, requirements, **environment)
            if self.check_mode:
                job = {"path": str(staging), "name": "installing", "steps": result["steps"]}
                compared = self.run_module("mlperf_background_job", **job, creates=str(path / "bin" / "python"))
                result["pending"] = compared["pending"]
                result["installs_engine"] = install.installs_engine(
                    result["steps"][len(result["steps"]) - compared["pending"] :]
                )
        if described := arguments["image"]:
            tree, containerfile = (
                PurePosixPath(described.pop("root")) / "context" / NAME,
                described.pop("containerfile"),
            )
            context = image.files(Path(arguments["source"]), Path(containerfile), described["engine"])
            result["image"] = {
                "context": str(tree.parent),
                "folders": sorted({str((tree / place).parent) for place in context}),
                "files": [{"source": str(here), "target": str(tree / place)} for place, here in context.items()],
                **image.build(context, sha256, tree=tree, **described),
            }
        return result
