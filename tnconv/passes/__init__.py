"""Passes, network to network: structural ones change the value, rewiring ones only how it is written."""

from tnconv.passes.exact import exact_check
from tnconv.passes.network_pass import Evaluate, Pass, PassResult, available, get, parse_pass, register_pass
from tnconv.passes.pass_text import DEFAULT, PRESETS
from tnconv.passes.pipeline import Check, Pipeline, Stage, run_pass
from tnconv.passes.rewrite import RewritePass, Rule, rule

__all__ = [
    "DEFAULT",
    "PRESETS",
    "Check",
    "Evaluate",
    "Pass",
    "PassResult",
    "Pipeline",
    "RewritePass",
    "Rule",
    "Stage",
    "available",
    "exact_check",
    "get",
    "parse_pass",
    "register_pass",
    "rule",
    "run_pass",
]
