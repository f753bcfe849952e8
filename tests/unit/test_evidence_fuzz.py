"""Whatever happens to a file of a good tree: there is a verdict, and it is not the good one where it rests on the file.

Each kind of file is damaged in every way, each kind of key removed and each kind of value changed, once at least. A
kind is a place without its numbers and nodes: every engine's port is one. What else is drawn is the same in each run,
so that a failure comes again; FUZZ_EXAMPLES=300 draws more, and tries every odd value in every kind of place.

The good tree is a smoke test, whose only reasons are those that a whole run of the real model does not have. So "never
VALID" is asserted as: a reason that the good tree does not have.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import journal
from harness.report.build import build
from harness.report.record import Level
from tests.unit import results_tree
from tests.unit.loadgen_logs import resummarise
from tests.unit.results_tree import REAL, benchmark, edit
from tests.unit.submission_runs import add_compliance

SMOKE = {"EARLY_STOPPING_SUBSET", "SHORT", "TINY_MODEL", "SUBSET"}
SAMPLES = 12
FEW = 20
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", FEW))
BRIEF = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
BRIEFER = settings(BRIEF, max_examples=max(1, EXAMPLES // 4))
"""For whole trees, of which each build takes 0.1 s."""
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "5",
    "nan",
    [],
    {},
    [None],
    {"a": 1},
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = benchmark(tmp_path_factory.mktemp("good") / "run", samples=SAMPLES)
    assert {reason.code for reason in build(folder)[0].verdict.reasons} == SMOKE
    return folder


@pytest.fixture
def tree(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "run")


def files(folder: Path) -> list[str]:
    """Every file of the tree but the checksums, and of hidden ones."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    return [name for name in names if not name.endswith("SHA256SUMS")]


def kind_of(name: str) -> str:
    """The name of a file or a place without what differs between its like: numbers and nodes; an attempt's log has the
    places of any performance log."""
    kind = re.sub(r"(?<=[/-])\d+(?=/|$)", "N", re.sub(r"\b(alpha|beta)\b", "node", name))
    return re.sub(r"(attempts|probes)/N/(?=performance/[\w.]+/)", "", kind)


def first_of_kind(names: Iterable[str], known: Collection[str] = ()) -> list[str]:
    """The first of each kind that no known name is of."""
    kinds = dict.fromkeys(map(kind_of, known))
    return [name for name in names if kinds.setdefault(kind_of(name), name) == name]


def verdict_of(
    folder: Path, original: Path, name: str, content: bytes | None, *, sealed: bool
) -> tuple[Level, set[str]]:
    """Level and new reasons with another content of one file, or without it; it is put back."""
    path = folder / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        if sealed:
            results_tree.seal(folder)
        verdict = build(folder)[0].verdict
        return verdict.level, {reason.code for reason in verdict.reasons} - SMOKE
    finally:
        shutil.copy(original / name, path)
        for node in ("alpha", "beta"):
            shutil.copy(original / f"nodes/{node}/SHA256SUMS", folder / f"nodes/{node}/SHA256SUMS")


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda content: None,
    "not UTF-8": lambda content: content[: len(content) // 2] + b"\xff\xfe\x00" + content[len(content) // 2 :],
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "doubled": lambda content: content + content,
    "with a line {}": lambda content: content + b"{}\n",
    "with a line 5": lambda content: content + b"5\n",
}
HARMLESS = (
    r"telemetry\.csv (cut|empty|gone)$",  # as a process that was killed leaves it, or a sampler that could not begin
    r"request\.json gone$",  # of a run that earlier versions made
    r"summary\.txt with a line (\{\}|5)$",  # its figures are read, and LoadGen writes other lines, too
    # Of earlier attempts the two logs are read, of probes the settings in the detail log.
    r"(attempts/1|probes/\d)/performance/(mlperf_log_accuracy\.json|user\.conf) ",
    r"probes/\d/performance/mlperf_log_(summary\.txt .*|detail\.txt cut)$",
)
"""Damages that change nothing that is judged."""


def unseen(folder: Path, original: Path, names: Iterable[str], *, sealed: bool) -> list[str]:
    """Files that were damaged without a reason of it, and how."""
    found = []
    for name in names:
        content = (original / name).read_bytes()
        for kind, damage in DAMAGES.items():
            _, new = verdict_of(folder, original, name, damage(content), sealed=sealed)
            seen = bool(new) if sealed or not name.startswith("nodes/") else "FILE_SUMS" in new
            if not seen and not any(re.search(pattern, f"{name} {kind}") for pattern in HARMLESS if sealed):
                found.append(f"{name} {kind}")
    return found


@pytest.mark.parametrize("sealed", [False, True], ids=["sums of the good tree", "sums rewritten"])
def test_every_file_is_seen_to_be_damaged_in_every_way(good: Path, tree: Path, sealed: bool) -> None:
    assert unseen(tree, good, first_of_kind(files(good)), sealed=sealed) == []


@pytest.mark.parametrize("kind", ["a search", "all three modes"])
def test_files_of_other_runs_are_seen_to_be_damaged(good: Path, valid: dict[str, tuple[Path, Path]], kind: str) -> None:
    original, folder = valid[kind]
    assert unseen(folder, original, first_of_kind(files(original), files(good)), sealed=True) == []


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """A file's content after an accident: cut, overwritten, not UTF-8, doubled, or with a line that is none."""
    place = data.draw(st.integers(0, len(content)), "place")
    more = data.draw(
        st.sampled_from([b"\xff\xfe\x00", b"{}\n", b"5\n", b"\n", b"NaN", b'"', b"}", b",", b"-1e999"]), "more"
    )
    kinds: dict[str, Callable[[], bytes]] = {
        "cut": lambda: content[:place],
        "put in": lambda: content[:place] + more + content[place:],
        "overwritten": lambda: content[:place] + more + content[place + len(more) :],
        "doubled": lambda: content + content,
        "beheaded": lambda: content[place:],
        "empty": lambda: b"",
    }
    return kinds[data.draw(st.sampled_from(sorted(kinds)), "kind")]()


@pytest.mark.parametrize("sealed", [False, True], ids=["sums of the good tree", "sums rewritten"])
@BRIEF
@given(data=st.data())
def test_damaged_file_is_a_verdict(good: Path, tree: Path, data: st.DataObject, sealed: bool) -> None:
    name = data.draw(st.sampled_from(files(good)), "file")
    original = (good / name).read_bytes()
    content = damaged(original, data)
    level, new = verdict_of(tree, good, name, content, sealed=sealed)  # with the sums rewritten, it is enough to judge
    if not sealed and name.startswith("nodes/") and content != original:
        assert level == Level.INVALID and "FILE_SUMS" in new


def scalars(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in a JSON document that holds no others."""
    if isinstance(value, dict) and value:
        return [place for key in value for place in scalars(value[key], (*path, key))]
    if isinstance(value, list) and value:
        return [place for number, item in enumerate(value) for place in scalars(item, (*path, number))]
    return [path]


def replaced(document: Any, place: tuple[Any, ...], value: Any) -> bytes:
    """The document with another value in one place."""
    copy = json.loads(json.dumps(document))
    if not place:
        return json.dumps(value).encode()
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return json.dumps(copy).encode()


@pytest.mark.parametrize("sealed", [False, True], ids=["sums of the good tree", "sums rewritten"])
@BRIEF
@given(data=st.data())
def test_odd_value_anywhere_in_json_is_a_verdict(good: Path, tree: Path, data: st.DataObject, sealed: bool) -> None:
    name = data.draw(st.sampled_from([name for name in files(good) if name.endswith(".json")]), "file")
    document = json.loads((good / name).read_text())
    place = data.draw(st.sampled_from(scalars(document)), "place")
    content = replaced(document, place, data.draw(st.sampled_from(ODD), "value"))
    level, new = verdict_of(tree, good, name, content, sealed=sealed)
    if not sealed and name.startswith("nodes/") and json.loads(content) != document:
        assert level == Level.INVALID and "FILE_SUMS" in new


class Value(NamedTuple):
    """One value of a file: where it is, how the file reads with another, and the value."""

    where: str
    write: Callable[[Any], str]
    value: Any


def odd_values(folder: Path, original: Path, places: Mapping[str, tuple[str, Value]], known: Collection[str]) -> None:
    """Put an odd value into each kind of place that is not known, another one into the next; all of them where many
    examples are asked for."""
    turn = 0
    for where in first_of_kind(places, known):
        name, one = places[where]
        for _ in range(len(ODD) if EXAMPLES > FEW else 1):
            verdict_of(folder, original, name, one.write(ODD[turn % len(ODD)]).encode(), sealed=True)
            turn += 1


def test_odd_value_in_every_kind_of_place_is_a_verdict(good: Path, tree: Path) -> None:
    odd_values(tree, good, all_values(good), ())


@pytest.mark.parametrize("kind", ["a search", "all three modes"])
def test_odd_value_in_other_kinds_of_places_is_a_verdict(
    good: Path, valid: dict[str, tuple[Path, Path]], kind: str
) -> None:
    original, folder = valid[kind]
    odd_values(folder, original, judged_values(original), all_values(good))


HOME = "nodes/alpha/"
DOCUMENTS = (".json", "detail.txt")
FREE = (
    # Of a machine and its software no verdict is spoken; what must be the same on all nodes has a rule.
    r"(machine|manifest\.json)/(hostname|node|os|kernel|python|cpu_model|cpu_count|memory_gib|started_unix|punkt)$",
    r"(machine|manifest\.json)/(versions/.*|tokenizer_sha256|gpus|driver|cuda|image_digest|environment_sha256)$",
    r"manifest\.json/engines/\d+/state$",
    # The data set has no second witness on a node, and nobody publishes its hash; it must be given.
    r"dataset/(sha256|samples_sha256)$",
    r"machine/(dataset/path|engines|seeds/sampling)$",
    r"model/(name|dtype)$",
    # What the LoadGen's host supposes of an engine that it has not started.
    r"manifest\.json/engines/\d+/(config/.*|asked.*|model|version/torch|unverified/\d+)$",
    r"(version/(torch|package)|command/0)$",
    # Costs, words and times that nothing is judged by.
    r"(telemetry_cost|client_cpu_s|ended_early|target_qps_asked|schema|chance|why|log|seconds|workers)(/.*)?$",
    r"outcome\.json/(performance|accuracy|compliance)/(mode|over_ttft|over_tpot|forgiven)$",
    r"outcome\.json/peak/(probes/\d+/engine_lost|budget_minutes|sentence)$",  # of the sentence, the number is judged
    r"(attempt|probe)\.json/.*(started_unix|finished_unix|forgiven|over_tpot|over_ttft)$",
    r"status\.json/(phase|reason|started_unix)$",
    r"reason$",
    r"plan\.json/(created_unix|launcher|topology|calibration|shared_machine)$",
    r"plan\.json/nodes/\w+/(target_qps|samples_per_s|hours_\w+|loadgen|share)$",
    r"request\.json/run_id$",
    # LoadGen's own stamps, and settings that have no effect in the scenario.
    r"detail\.txt/(loadgen_git_\w+|test_datetime|get_sut_name_duration_ns|qsl_name|power_\w+|generic_message)$",
    r"detail\.txt/requested_\w+_rng_seed$",  # the effective ones are judged
    r"outcome\.json/(resent/[\w-]+|resumed/\d/.*)$",  # of a performance run, which was made again
    r"detail\.txt/(requested_server_find_peak_qps_\w+|effective_(target_duration_ms|min_sample_count|samples_per_query))$",
    r"detail\.txt/(generated_query_duration|early_stopping_t\w+_result|result_overlatency_query_count)$",
    r"detail\.txt/(result_(?!min_duration_met|min_queries_met)\w*(min|max|mean)\w*|result_token_throughput\w*|result_invalid_reason)$",
    r"detail\.txt/result_\w*99\.90_percentile\w*$",
    r"detail\.txt/(logger_\w+|loaded_qsl_set|loadgen_(build_\w+|file_sha1)|warning_generic_message)(/.*)?$",
    # A compliance run is too short to be judged by its speed, and Llama's end tokens always count.
    r"compliance/mlperf_log_detail\.txt/(result_.*|early_stopping_met|requested_server_t\w+_latency)$",
    r"test06\.json/end_tokens/\d+$",
    # Runs before the one that is judged must agree with their records, and need no more.
    r"attempts/1/performance/mlperf_log_\w+\.txt/(?!requested_server_target_qps|effective_(qsl|sample|schedule).*_seed).*",
    r"probes/\d/performance/mlperf_log_\w+\.txt/(?!requested_server_target_qps).*",
    r"(attempts/1|probes/\d)/performance/mlperf_log_accuracy\.json$",
)
"""Values that may be anything while a verdict stays VALID."""


def whole() -> dict[str, Any]:
    """A run of ten minutes whose latencies are so long that no change of them is within a tolerance."""
    return results_tree.whole(ttft_ms=400, tpot_ms=20)


def searched(folder: Path) -> Path:
    """Server with a search: two engines on one of two nodes, a probe and an attempt that failed, one that is VALID."""
    benchmark(folder, model=REAL, **whole())
    results_tree.second_engine(folder)
    late = {"over_ttft": 30, "ttft_ms_p99": 2310.0, "verdict": "INVALID", "target_qps": 1.3}
    results_tree.attempts(folder, late, {"target_qps": 0.9})
    results_tree.probes(folder, 1.2)
    return requested(folder)


def requested(folder: Path) -> Path:
    """With the request that the plan answers."""
    plan = json.loads((folder / "plan.json").read_text())
    results_tree.write(folder / "request.json", {"schema": 1, "run_id": folder.name, "asked": plan["asked"]})
    return folder


def moved(folder: Path) -> Path:
    """A run in which requests were sent again, and that was resumed in its performance run, which was made again."""
    benchmark(folder, model=REAL, **whole())
    entry = {"at_unix": results_tree.START - 500, "phase": "performance", "kept": 0, "missing": 700}
    edit(folder / f"{HOME}outcome.json", lambda o: o.update(resent={"alpha-0": 3}, resumed=[entry]))
    return requested(folder)


def all_modes(folder: Path) -> Path:
    """With a compliance run."""
    benchmark(folder, model=REAL, mode="all", **whole())
    add_compliance(folder / HOME, "server")
    results_tree.seal(folder)
    return requested(folder)


HONEST: dict[str, Callable[[Path], Path]] = {
    "a search": searched,
    "sent again, and resumed before its end": moved,
    "all three modes": all_modes,
    "Offline": lambda folder: requested(benchmark(folder, model=REAL, scenario="offline", **whole())),
    "Interactive on one node": lambda folder: requested(
        benchmark(folder, model=REAL, scenario="interactive", nodes=["alpha"], **whole())
    ),
}
MOST_KINDS_LONG = [pytest.param("a search", marks=pytest.mark.long), *list(HONEST)[1:]]
"""The first has most of the kinds, of which each is built once: a minute."""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Path]]]:
    """Honest trees, each with a copy to change, over a whole data set that has 700 samples."""
    with pytest.MonkeyPatch.context() as patch:
        results_tree.shrink(patch)
        base = tmp_path_factory.mktemp("valid")
        made = {name: make(base / str(number) / "run") for number, (name, make) in enumerate(HONEST.items())}
        yield {name: (folder, shutil.copytree(folder, folder.with_name("changed"))) for name, folder in made.items()}


@pytest.mark.parametrize("name", HONEST)
def test_honest_tree_is_valid(valid: dict[str, tuple[Path, Path]], name: str) -> None:
    verdict = build(valid[name][0])[0].verdict
    assert (verdict.level, verdict.reasons) == (Level.VALID, ())


ABSENT = (
    # Earlier versions did not write these, or only what they had to say.
    r"(score|test06)\.json/(run_id|common_sha256|node_sha256)$",
    r"status\.json/(common_sha256|node_sha256)$",
    r"score\.json/part_logs_sha256$",
    # Nothing, so that it is the same as its absence; the journal says what is so.
    r"outcome\.json/(\w+/one_token_answers|calibration|resent|resumed)$",
    r"(probe\.json/engine_lost|model/sandbox)$",
    # It follows from other keys of the same file, or all that is in it is free.
    r"(engine\.json|manifest\.json/engines/\d+)/(kind|unverified|machine/seeds)$",
    r"manifest\.json/versions$",
    # The engine's own file says it, too.
    r"manifest\.json/engines/\d+/verified(/.*)?$",
)
"""Keys that may be absent while a verdict stays VALID."""


def keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every key in a JSON document."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(value, dict):
            yield (*path, key)
        yield from keys(item, (*path, key))


def without(document: Any, place: tuple[Any, ...]) -> bytes:
    """The document without one key."""
    copy = json.loads(json.dumps(document))
    holder = copy
    for key in place[:-1]:
        holder = holder[key]
    del holder[place[-1]]
    return json.dumps(copy).encode()


def absences(folder: Path) -> dict[str, tuple[str, Any, tuple[Any, ...]]]:
    """Of each key that is judged, its file, what that holds, and where in it the key is."""
    found = {}
    for name in (name for name in files(folder) if name.endswith(".json")):
        document = json.loads((folder / name).read_text())
        places = {"/".join([name, *map(str, place)]): place for place in keys(document)}
        found |= {where: (name, document, place) for where, place in places.items() if not is_free(where)}
    return found


@pytest.mark.parametrize("kind", MOST_KINDS_LONG)
def test_a_missing_key_of_every_kind_is_never_valid(valid: dict[str, tuple[Path, Path]], kind: str) -> None:
    """Of those that no honest tree before had."""
    original, folder = valid[kind]
    before = [where for other in list(HONEST)[: list(HONEST).index(kind)] for where in absences(valid[other][0])]
    found = absences(original)
    still_valid = []
    for where in first_of_kind(found, before):
        name, document, place = found[where]
        level, _ = verdict_of(folder, original, name, without(document, place), sealed=True)
        if level == Level.VALID and not any(re.search(pattern, where) for pattern in ABSENT):
            still_valid.append(where)
    assert still_valid == []


Choose = Callable[[Sequence[float]], Any]
"""Takes one of several numbers."""


def another(value: Any, choose: Choose) -> Any:
    """A value that differs by more than any tolerance."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int) and abs(value) < 1_000_000:
        return value + choose([-3, -1, 1, 7, 1000])
    if isinstance(value, int | float):  # whole numbers of this size are nanoseconds
        return type(value)(value * choose([0.5, 0.8, 4.0, 10.0]) + (value == 0))
    if isinstance(value, list | dict):
        return [*value, 3] if isinstance(value, list) else {"a": 1}
    return ("0" if value[:1] != "0" else "1") + value[1:]


def everything(name: str, content: str) -> list[Value]:
    """All values of a file."""
    if name.endswith("detail.txt"):
        return [
            Value(f"{name}/{match[1]}", partial(_put, content, match.span(2)), json.loads(match[2]))
            for match in re.finditer(r'"key": "([^"]*)", "value": (.*?), "time_ms"', content)
        ]
    document = json.loads(content)
    found = []
    for place in scalars(document):
        value = document
        for key in place:
            value = value[key]
        found.append(Value("/".join([name, *map(str, place)]), partial(_replaced, document, place), value))
    return found


def values(name: str, content: str) -> list[Value]:
    """Those that are not free."""
    return [one for one in everything(name, content) if not is_free(one.where)]


def is_free(where: str) -> bool:
    """Whether the value there is."""
    return any(re.search(free, where) for free in FREE)


def _put(content: str, span: tuple[int, int], value: Any) -> str:
    return content[: span[0]] + json.dumps(value) + content[span[1] :]


def _replaced(document: Any, place: tuple[Any, ...], value: Any) -> str:
    return replaced(document, place, value).decode()


def changed_level(folder: Path, original: Path, name: str, content: str, *, sealed: bool) -> Level:
    """The verdict with another content of one file, and of LoadGen's summary that goes with it; both are put back."""
    (folder / name).write_text(content)
    summary = Path(name).with_name("mlperf_log_summary.txt")
    if name.endswith("detail.txt") and (original / summary).stat().st_size:
        resummarise((folder / name).parent)
    try:
        if sealed:
            results_tree.seal(folder)
        return build(folder)[0].verdict.level
    finally:
        for put_back in (name, summary, *(f"nodes/{node}/SHA256SUMS" for node in ("alpha", "beta"))):
            if (original / put_back).exists():
                shutil.copy(original / put_back, folder / put_back)


def all_values(folder: Path) -> dict[str, tuple[str, Value]]:
    """File and value of each place of a tree."""
    documents = [name for name in files(folder) if name.endswith(DOCUMENTS)]
    return {one.where: (name, one) for name in documents for one in everything(name, (folder / name).read_text())}


def judged_values(folder: Path) -> dict[str, tuple[str, Value]]:
    """Those that are not free."""
    return {where: found for where, found in all_values(folder).items() if not is_free(where)}


@pytest.mark.parametrize("kind", MOST_KINDS_LONG)
def test_another_value_of_every_kind_is_never_valid(valid: dict[str, tuple[Path, Path]], kind: str) -> None:
    """Of those that no honest tree before had; smaller ones and greater ones in turn."""
    original, folder = valid[kind]
    before = [where for other in list(HONEST)[: list(HONEST).index(kind)] for where in judged_values(valid[other][0])]
    found = judged_values(original)
    still_valid = []
    for turn, where in enumerate(first_of_kind(found, before)):
        name, one = found[where]
        changed = one.write(another(one.value, lambda numbers, turn=turn: numbers[-(turn % 2)]))  # type: ignore[misc]
        if changed_level(folder, original, name, changed, sealed=True) == Level.VALID:
            still_valid.append(where)
    assert still_valid == []


@pytest.mark.parametrize("sealed", [False, True], ids=["sums of the good tree", "sums rewritten"])
@pytest.mark.parametrize("kind", HONEST)
@BRIEFER
@given(data=st.data())
def test_another_value_is_never_valid(
    valid: dict[str, tuple[Path, Path]], kind: str, data: st.DataObject, sealed: bool
) -> None:
    """Every value of every file that is not listed as free, its LoadGen logs made to agree with each other."""
    original, folder = valid[kind]
    documents = [name for name in files(original) if name.endswith(DOCUMENTS)]
    name = data.draw(st.sampled_from([one for one in documents if sealed or one.startswith("nodes/")]), "file")
    found = values(name, (original / name).read_text())
    if found:
        one = data.draw(st.sampled_from(found), "value")
        value = another(one.value, lambda numbers: data.draw(st.sampled_from(numbers), "number"))
        level = changed_level(folder, original, name, one.write(value), sealed=sealed)
        assert level != Level.VALID, one.where


def scaled(factor: float, *stamps: str) -> Callable[[dict[str, Any]], None]:
    """Times since the issue that are longer or shorter."""

    def change(line: dict[str, Any]) -> None:
        for name in stamps:
            line[name] = line["issued_s"] + (line[name] - line["issued_s"]) * factor

    return change


JOURNAL: dict[str, Callable[[dict[str, Any]], object]] = {
    "another sample": lambda line: line.update(qsl_idx=(line["qsl_idx"] + 1) % SAMPLES),
    "a sample outside": lambda line: line.update(qsl_idx=SAMPLES),
    "another id": lambda line: line["token_ids"].__setitem__(0, 7),
    "an id less": lambda line: line["token_ids"].pop(),
    "fewer tokens": lambda line: line.update(n_tokens=line["n_tokens"] - 1, token_ids=line["token_ids"][1:]),
    "another mode": lambda line: line.update(mode="performance" if line["mode"] == "accuracy" else "accuracy"),
    "another engine": lambda line: line.update(engine="gamma-0"),
    "first before it was issued": lambda line: line.update(first_s=line["issued_s"] - 1),
    "last before first": lambda line: line.update(last_s=line["first_s"] - 0.01),
    "failed": lambda line: line.update(failed="HTTP 500"),
    "a number that no column holds": lambda line: line.update(n_tokens=2**63),
    "moved": lambda line: line.update(moved=1),
    "text for a number": lambda line: line.update(first_s="soon"),
}


@BRIEF
@given(data=st.data())
def test_another_journal_line_is_seen(good: Path, tree: Path, data: st.DataObject) -> None:
    name = f"{HOME}journal.jsonl"
    lines = journal.read(good / name).lines
    which = data.draw(st.sampled_from(sorted(JOURNAL)), "change")
    place = data.draw(st.integers(0, len(lines) - 1), "line")
    if which in ("another id",) and lines[place]["mode"] == "performance":
        return  # of a performance run the ids are nowhere else
    JOURNAL[which](lines[place])
    _, new = verdict_of(tree, good, name, b"".join(map(journal.seal, lines)), sealed=True)
    assert new


@pytest.mark.parametrize("stamps", [("first_s",), ("last_s",), ("first_s", "last_s")])
@pytest.mark.parametrize("factor", [0.3, 5.0])
def test_other_latencies_in_all_lines_are_seen(tmp_path: Path, stamps: tuple[str, ...], factor: float) -> None:
    """By more than the tolerance, which is 500 ms and a quarter for a LoadGen that waits for a processor."""
    folder = benchmark(tmp_path / "run", samples=SAMPLES, pace=results_tree.Pace(ttft_ms=1500, tpot_ms=20))
    path = folder / f"{HOME}journal.jsonl"
    lines = journal.read(path).lines
    for line in lines:
        scaled(factor, *stamps)(line)
    path.write_bytes(b"".join(map(journal.seal, lines)))
    results_tree.seal(folder)
    assert {reason.code for reason in build(folder)[0].verdict.reasons} - SMOKE


@BRIEF
@given(data=st.data())
def test_another_score_is_seen(good: Path, tree: Path, data: st.DataObject) -> None:
    name = f"{HOME}accuracy/scores.csv"
    head, *rows = (good / name).read_text().splitlines()
    number = data.draw(st.integers(0, len(rows) - 1), "row")
    column = data.draw(st.integers(0, len(head.split(",")) - 1), "column")
    cells = rows[number].split(",")
    cells[column] = data.draw(st.sampled_from(["", "0.25", "nan", "inf", "-1", "7", "x", "1e400"]), "cell")
    if cells != rows[number].split(","):
        rows[number] = ",".join(cells)
        _, new = verdict_of(tree, good, name, "\n".join([head, *rows, ""]).encode(), sealed=True)
        assert new
