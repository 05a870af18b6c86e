"""Plans on the command line: what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .tables import Column


def plan_inspection(plan: Any, path: Path) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """All about a `Plan` or `OnnxPlan` as data, and its table: what runs each node, batch size by batch size.

    What moves data only has no kernel.
    """
    model = getattr(plan, "model", None)
    about: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size, "kind": "plan"}
    if model is None:
        about["input_shape"] = list(plan.input_shape)
    else:
        about["inputs"] = [info._asdict() for info in model.inputs]
    about |= {"batch": plan.batch, "target": plan.target, "threads": plan.threads, "choices": plan.choices}
    chains = {"": plan.choices} if model is None else plan.choices
    rows = [
        {"chain": chain, "batch": int(batch), "node": node, "kernel": choice.get("kernel")}
        for chain, sizes in chains.items()
        for batch, nodes in sizes.items()
        for node, choice in nodes
    ]
    heads = ["chain"] * (model is not None) + ["batch", "node", "kernel"]
    return about, (rows, [Column(head, head) for head in heads], f"{path}: plan for {plan.target}")
