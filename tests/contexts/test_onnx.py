"""Models with layers of tnconv leave for ONNX, and onnxruntime computes the same."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tnconv

pytest.importorskip("onnxscript", reason="export to ONNX needs it: pip install '.[suites]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="it runs what is exported: pip install '.[suites]'")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        tnconv.nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        tnconv.nn.CPConv2d(4, 5, 3, stride=2, rank=2),
        tnconv.nn.ConvTranspose2d(5, 2, 2, stride=2),
    ).eval()


@pytest.mark.parametrize("batches", [(2,), (2, 5)], ids=["static", "dynamic"])
def test_export(batches: tuple[int, ...], tmp_path: Path) -> None:
    made, path = model(), tmp_path / "model.onnx"
    inputs: list[Tensor] = [torch.randn(n, 3, 8, 8) for n in batches]
    shapes = ({0: torch.export.Dim("n")},) if len(batches) > 1 else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        program = torch.onnx.export(made, (inputs[0],), dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for x in inputs:
        (found,) = session.run(None, {name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), made(x).detach())
