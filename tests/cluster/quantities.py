"""Quantities of resources, and the sum of a pod's requests."""

from decimal import Decimal

from tests.cluster.kinds import Object

_UNITS = {
    **{unit: Decimal(1024) ** power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), 1)},
    **{unit: Decimal(1000) ** power for power, unit in enumerate(("k", "M", "G", "T", "P"), 1)},
    "m": Decimal("0.001"),
}


def amount(quantity: str | int | float) -> Decimal:
    """A quantity as a number."""
    text = str(quantity)
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return Decimal(text.removesuffix(unit)) * factor
    return Decimal(text)


def format_quantity(value: Decimal) -> str:
    """A number as a quantity."""
    if value != value.to_integral_value():
        return f"{(value * 1000).normalize():f}m"
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if value and value % _UNITS[unit] == 0:
            return f"{value / _UNITS[unit]:f}{unit}"
    return f"{value:f}"


def requests(spec: Object, section: str = "requests") -> dict[str, Decimal]:
    """The sum of its containers' requests or limits."""
    result: dict[str, Decimal] = {}
    for container in spec["containers"]:
        for name, value in container.get("resources", {}).get(section, {}).items():
            result[name] = result.get(name, Decimal(0)) + amount(value)
    return result
