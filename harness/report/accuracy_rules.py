"""The accuracy gates: MLPerf's for the whole real data set, the sandbox's own for any part of its data."""

from collections.abc import Iterator, Mapping, Sequence

from harness.report.input_models import ModelFacts
from harness.report.load_inputs import Inputs
from harness.report.record import Reason
from harness.report.rules import Rule
from harness.scoring.scores import Reference, Score
from harness.spec import FULL_SAMPLES, REAL_MODEL

REFERENCE_ROUGE = {"rouge1": 38.7792, "rouge2": 15.9075, "rougeL": 24.4957, "rougeLsum": 35.793}
REFERENCE_CHARACTERS = 8_167_644
SANDBOX_ROUGE = dict.fromkeys(REFERENCE_ROUGE, 100.0)
GATE = 0.99


def is_real(model: ModelFacts) -> bool | None:
    """Whether the weights have Llama-3.1-8B's shape; None when the manifest does not say."""
    sizes = {name: getattr(model, name) for name in REAL_MODEL}
    if model.sandbox:
        return False
    return None if None in sizes.values() else sizes == REAL_MODEL


def accuracy(inputs: Inputs, score: Score | None) -> Iterator[Reason]:
    """Reasons from the answers: whether each sample was answered once, and whether accuracy is sufficient."""
    spec = inputs.spec
    if score is None or spec is None:
        return
    distinct = score.samples_expected - len(score.missing)
    if score.missing or distinct < spec.samples:
        which = few(score.missing) if score.missing else f"{distinct} were scored"
        yield Rule.ACCURACY_COVERAGE.reason(count=spec.samples - distinct, rule=spec.samples, which=which)
    if score.duplicates:
        yield Rule.ACCURACY_ONCE.reason(count=len(score.duplicates), which=few(score.duplicates))
    if score.foreign:
        yield Rule.ACCURACY_FOREIGN.reason(count=len(score.foreign), which=few(score.foreign))
    if score.end_token_violations:
        yield Rule.END_TOKEN.reason(count=len(score.end_token_violations), which=few(score.end_token_violations))
    if score.reference:
        yield from reference_gate(score, score.reference)
    real = [is_real(loadgen.manifest.model) for loadgen in inputs.loadgens]
    if score.reference and not any(real):
        yield from _rouge_gate(score, SANDBOX_ROUGE)
    elif False in real:
        yield Rule.NO_REFERENCE.reason(what="this model")
    elif spec.samples < FULL_SAMPLES:
        yield Rule.NO_REFERENCE.reason(what="a subset")
    else:
        yield from _rouge_gate(score, REFERENCE_ROUGE)
        low, high = 0.9 * REFERENCE_CHARACTERS, 1.1 * REFERENCE_CHARACTERS
        if score.gen_len is not None and not low <= score.gen_len <= high:
            yield Rule.GEN_LEN.reason(value=score.gen_len, low=low, high=high)


def _rouge_gate(score: Score, reference: Mapping[str, float]) -> Iterator[Reason]:
    for metric, expected in reference.items():
        value = getattr(score, metric)
        if value is not None and value < GATE * expected:
            yield Rule.ROUGE.reason(metric=metric, value=value, rule=GATE * expected, reference=expected)


def reference_gate(score: Score, reference: Reference) -> Iterator[Reason]:
    percent = 100 * reference.identical / reference.compared if reference.compared else 0.0
    if percent < 100 * GATE:
        yield Rule.REFERENCE_IDS.reason(percent=percent, which=few(reference.differing))
    faults = {
        "are another sample's": reference.misplaced,
        "have the reference's ids one position off or cut": reference.shifted,
        "have the reference's ids but decode to another text": reference.decode_differing,
    }
    for what, which in faults.items():
        if which:
            yield Rule.REFERENCE_FAULT.reason(count=len(which), what=what, which=few(which))
    if reference.compared < score.gen_num:
        yield Rule.NO_REFERENCE.reason(what=f"{score.gen_num - reference.compared} of {score.gen_num} samples")


def few(indexes: Sequence[int], most: int = 10) -> str:
    """The first indices of a list, and how many more there are."""
    return ", ".join(str(index) for index in indexes[:most]) + (
        f" and {len(indexes) - most} more" if len(indexes) > most else ""
    )
