"""Results as JSON: one line a row, few digits, so that a change is readable."""

import json
from pathlib import Path
from typing import Any

Results = dict[str, Any]


def save(results: Results, path: Path) -> None:
    """Write results."""
    rows = ",\n ".join(json.dumps(_short(row)) for row in results["rows"])
    rest = {name: value for name, value in results.items() if name != "rows"}
    head = json.dumps(_short(rest), indent=1)[:-2]
    path.write_text(f'{head},\n "rows": [\n {rows}\n ]\n}}\n')


def merged(old: Results, new: Results) -> Results:
    """The old results with the rows of the new ones in place of their own; the machine is that of the new.

    Raises:
        ValueError: the results come from different devices or numbers of threads.
    """
    for name in ("device", "threads", "dtype"):
        was, is_ = old["machine"].get(name), new["machine"][name]
        if was != is_:
            raise ValueError(
                f"results of {name} {was} cannot take rows of {name} {is_}; write them by --json"
            )
    rows = {_key(row): row for row in (*old["rows"], *new["rows"])}
    return {**old, "machine": new["machine"], "rows": list(rows.values())}


def _key(row: dict[str, Any]) -> tuple[str, ...]:
    return row["op"], row["set"], row["layer"]


def _short(value: Any) -> Any:
    """Floats to four digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value
