"""How the node image is built: the files of its context, a name for exactly these inputs, and the command."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from harness.errors import BadInput
from harness.files import sha256_file, sha256_json

_CONTAINERFILE = "container/Containerfile"
_LOCKS = ("torch-cpu.txt", "engine-{engine}.txt", "deepspeed.txt", "torchx.txt", "punkt.txt")
_SCRIPTS = ("container/health.py", "container/sshd.sh", "container/sshd_config")


def files(checkout: Path, containerfile: Path, engine: str) -> dict[str, Path]:
    """The files here, by their paths in the build's context; the package itself is unpacked there, too.

    Args:
        checkout: the folder of this project.
        containerfile: the recipe.
        engine: which build of vLLM, `cpu` or `cuda`.

    Raises:
        BadInput: one of them is missing.
    """
    names = [*(f"requirements/{lock.format(engine=engine)}" for lock in _LOCKS), *_SCRIPTS]
    context = {_CONTAINERFILE: containerfile, **{name: checkout / name for name in names}}
    if missing := [str(file) for file in context.values() if not file.is_file()]:
        raise BadInput(f"no such file, which the node image is built from: {', '.join(missing)}; restore it")
    return context


def build(
    context: Mapping[str, Path],
    package_sha256: str,
    *,
    name: str,
    tree: PurePosixPath,
    base: str,
    engine: str,
    arguments: Mapping[str, Any],
    options: Sequence[str],
) -> dict[str, Any]:
    """The build: `inputs`, the image's tag until it is built; `id_file`, to which its id is written; `command`.

    Args:
        context: what `files` returned.
        package_sha256: hash of the archive of this package.
        name: name of the image, without a tag.
        tree: the folder of the build's context on the host that builds.
        base: the base image.
        engine: which build of vLLM.
        arguments: further build arguments.
        options: further options of `buildah build`.
    """
    content = {place: sha256_file(file) for place, file in context.items()}
    # YAML reads a plain yes as true; the recipe knows words.
    words = {
        name: value if not isinstance(value, bool) else "yes" if value else "no" for name, value in arguments.items()
    }
    values = {"BASE_IMAGE": base, "ENGINE": engine, **words}
    inputs = sha256_json([package_sha256, base, engine, words, content])[:12]
    id_file = tree.parents[1] / f"{inputs}.id"
    command = [
        *("buildah", "build", "--format", "docker", "--layers", "--file", str(tree / _CONTAINERFILE)),
        *("--iidfile", str(id_file), "--tag", f"{name}:{inputs}", *options),
        *(f"--build-arg={key}={value}" for key, value in values.items()),
        str(tree),
    ]
    return {"inputs": inputs, "id_file": str(id_file), "command": command}
