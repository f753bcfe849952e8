"""Compliance test TEST06: LoadGen's audit settings, and whether the answers that it logged are consistent.

A compliance run is a short performance run whose answers LoadGen logs. Three things are checked of each of them, as
MLCommons' verifier does, and more strictly where that one lets a fault pass:

* first token: the one that was reported when it arrived is the answer's first (not in Offline, which reports none);
* end token: nothing follows an end token. Two end tokens and nothing else are an answer too;
* length: the number of tokens reported is the number of tokens in the answer.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput
from harness.files import read_json, sha256_file, write_atomic, write_json

TEST = "TEST06"
ANSWERS = 100
"""Queries of a compliance run, all of which are logged."""
LOG_SEED = 720381539243781796
AUDIT = {
    "mode": 2,  # performance
    "accuracy_log_rng_seed": LOG_SEED,
    "accuracy_log_sampling_target": ANSWERS,
    "min_query_count": ANSWERS,
    "min_duration": 0,
    "sample_concatenate_permutation": 0,
}
EFFECTIVE = {
    "effective_test_mode": "PerformanceOnly",
    "effective_min_duration_ms": 0,
    "effective_sample_concatenate_permutation": False,
    "effective_accuracy_log_rng_seed": LOG_SEED,
    "effective_accuracy_log_sampling_target": ANSWERS,
}
"""The settings that LoadGen's detail log then shows."""
LLAMA_END_TOKENS = frozenset({128001, 128008, 128009})
LOG, VERIFIED, RECORD = "mlperf_log_accuracy.json", "verify_accuracy.txt", "test06.json"


@dataclass(frozen=True, slots=True)
class Logged:
    """One logged answer: its query and its sample, its token ids, those reported as they arrived, and their number as
    reported."""

    seq_id: int
    qsl_idx: int
    token_ids: tuple[int, ...]
    first_ids: tuple[int, ...]
    token_count: int


@dataclass(frozen=True, slots=True)
class Compliance:
    """Result of the checks; `first_token` is None where no first token is reported. `log_sha256` is the log's hash."""

    first_token: bool | None
    end_token: bool
    length: bool
    answers: int
    end_tokens: tuple[int, ...]
    log_sha256: str

    @property
    def passed(self) -> bool:
        """Whether the test was passed."""
        return self.first_token is not False and self.end_token and self.length

    def text(self) -> str:
        """The content of verify_accuracy.txt."""
        first = "Skipped" if self.first_token is None else self.first_token
        return (
            f"First token check pass: {first}\n"
            f"EOS check pass: {self.end_token}\n"
            f"Sample length check pass: {self.length}\n"
            f"{TEST} verification {'complete' if self.passed else 'failed'}\n"
        )

    def failures(self) -> list[str]:
        """What was not passed, in words."""
        checks = {
            "an answer begins with another token than was reported": self.first_token is False,
            "an answer goes on after an end token": not self.end_token,
            "an answer has another number of tokens than was reported": not self.length,
        }
        return [sentence for sentence, failed in checks.items() if failed]


def audit_config() -> str:
    """The content of the audit file that LoadGen is given."""
    return "".join(f"*.*.{key} = {value}\n" for key, value in AUDIT.items())


def verify(folder: Path, streams: bool, end_tokens: Collection[int], identity: Mapping[str, str]) -> Compliance:
    """Check the log of a compliance run in `folder` and write verify_accuracy.txt and test06.json there.

    Args:
        folder: with LoadGen's files.
        streams: whether first tokens are reported, as in every scenario but Offline.
        end_tokens: ids that end an answer.
        identity: of the run's specification.

    Raises:
        BadInput: the log is missing or damaged.
    """
    result = check(folder, streams, end_tokens)
    write_atomic(folder / VERIFIED, result.text())
    write_json(folder / RECORD, {"schema": 1, **identity, **asdict(result)})
    return result


def check(folder: Path, streams: bool, end_tokens: Collection[int]) -> Compliance:
    """The result of the log in `folder`, without writing anything; arguments and errors as those of `verify`."""
    log = folder / LOG
    answers = list(read(log))
    return Compliance(
        first_token=all(_begins_as_reported(answer) for answer in answers) if streams else None,
        end_token=all(_ends_once(answer.token_ids, end_tokens) for answer in answers),
        length=all(len(answer.token_ids) == answer.token_count for answer in answers),
        answers=len(answers),
        end_tokens=tuple(sorted(end_tokens)),
        log_sha256=sha256_file(log),
    )


def recorded_end_tokens(folder: Path) -> frozenset[int]:
    """The end tokens that a run's answers were checked with.

    Raises:
        BadInput: test06.json is missing or damaged.
    """
    path = folder / RECORD
    record = read_json(path, "record of the compliance test")
    tokens = record.get("end_tokens") if isinstance(record, dict) else None
    if not isinstance(tokens, list) or not tokens or any(type(token) is not int for token in tokens):
        raise BadInput(f"{path} names no end tokens; fetch it again, or run again with mode=compliance")
    return frozenset(tokens)


def read(log: Path) -> Iterator[Logged]:
    """The answers in an accuracy log whose ids are little-endian int32.

    Raises:
        BadInput: it is missing, damaged or empty.
    """
    entries = read_json(log, "log of the compliance run")
    if not isinstance(entries, list) or not entries:
        raise BadInput(f"{log} holds no list of answers; run again with mode=compliance")
    for position, entry in enumerate(entries):
        try:
            yield Logged(
                seq_id=_integer(entry["seq_id"]),
                qsl_idx=_integer(entry["qsl_idx"]),
                token_ids=_ids(entry["data"]),
                first_ids=_ids(entry.get("token_data", "")),
                token_count=_integer(entry["token_count"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(f"{log}: entry {position} is damaged ({error!s}); run again with mode=compliance") from None


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{json.dumps(value)} is not an integer")
    return value


def _ids(text: str) -> tuple[int, ...]:
    return tuple(memoryview(bytes.fromhex(text)).cast("i"))


def _begins_as_reported(answer: Logged) -> bool:
    reported = answer.first_ids
    return bool(reported) and answer.token_ids[: len(reported)] == reported


def _ends_once(ids: Sequence[int], end_tokens: Collection[int]) -> bool:
    if len(ids) == 2 and all(token in end_tokens for token in ids):
        return True
    return not any(token in end_tokens for token in ids[:-1])
