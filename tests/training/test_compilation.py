from pathlib import Path

import pytest
import torch
from packaging.version import Version
from torch._dynamo.utils import counters
from torch._inductor import config

from tests.helpers.commands import small, the_line, train_py, trained

CNN = small(model="cnn", **{"model.width": 4})


def test_a_compiled_run_repeats_bit_for_bit(tmp_path: Path) -> None:
    counters.clear()
    runs = [trained(tmp_path / name, *CNN, "compile=true") for name in ("a", "b")]
    assert counters["stats"]["unique_graphs"] == 4, "of each run the model and the loss, and no evaluation"
    eager = trained(tmp_path / "eager", *CNN)
    assert torch.equal(runs[0].losses, runs[1].losses)
    assert torch.equal(runs[0].probes[8], runs[1].probes[8])
    assert torch.equal(runs[0].probes[0], eager.probes[0]), "compiling leaves no trace in the model"
    torch.testing.assert_close(runs[0].losses, eager.losses, rtol=1e-3, atol=1e-3)
    assert not torch.equal(runs[0].losses, eager.losses), "nothing was compiled"


def test_without_a_c_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # where nothing is compiled already
    line = the_line(train_py(*small(), "compile=true", "device=cpu", f"hydra.run.dir={tmp_path / 'run'}"))
    reason = "InvalidCxxCompiler" if Version(torch.__version__) >= Version("2.14") else "backend='inductor' raised"
    assert line.startswith(f"PyTorch cannot compile here ({reason}") and line.endswith("): train with compile=false")
