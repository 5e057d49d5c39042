import re

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.explain import one_line, out_of_memory

HERE = "tests.job.test_explain"


def chained(outer, cause):
    try:
        raise outer from cause
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("x is 3: use 4"), "x is 3: use 4"),
        (chained(InstantiationException("in call to Y:\n full_key: y"), UserError("x is 3: use 4")), "x is 3: use 4"),
        (InstantiationException("in call to Y:\n  TypeError"), "in call to Y: TypeError"),
        (chained(InstantiationException("a"), OmegaConfBaseException("b\nc")), "a b c"),
        (
            PermissionError(13, "Permission denied", "out"),
            "cannot use out: Permission denied; check its permissions or choose another path",
        ),
        (
            OSError(28, "No space left on device", "out"),
            "cannot use out: No space left on device; free some space or choose another path",
        ),
    ],
)
def test_one_line(error, line):
    assert one_line(error) == line


def refuse(error):
    raise error


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ({"root": "???"}, "data.root must be given: data.root=VALUE"),
        ({"root": "${nope}"}, "data.root: Interpolation key 'nope' not found"),
        (
            {"_target_": "ctkd_lightning.CosineCurriculum", "rate": 1},
            "data: cannot make CosineCurriculum: CosineCurriculum.__init__() got an unexpected keyword argument 'rate'",
        ),
        (
            {"_target_": f"{HERE}.refuse", "error": {"_target_": "builtins.KeyError", "_args_": ["x"]}},
            "data: cannot make refuse: KeyError: 'x'",
        ),
        (
            {"_target_": f"{HERE}.nope"},
            f"data: Error loading '{HERE}.nope': ModuleNotFoundError(\"No module named '{HERE}.nope'; '{HERE}' is not "
            f"a package\") Are you sure that 'nope' is importable from module '{HERE}'?",
        ),
    ],
)
def test_what_a_configuration_lacks(node, line):
    cfg = OmegaConf.create({"data": node})
    with pytest.raises((HydraException, OmegaConfBaseException)) as error:
        instantiate(cfg.data) if "_target_" in node else cfg.data.root
    assert one_line(error.value) == line


def test_not_enough_memory():
    with pytest.raises(RuntimeError, match="can't allocate memory") as failed:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(failed.value).startswith("there is not enough memory (tried to allocate 1152921504606846976")
    with pytest.raises(MemoryError) as failed:
        np.empty(2**60, np.uint8)
    assert "there is not enough memory (unable to allocate 1.00 EiB): lower data.batch_size" in out_of_memory(
        failed.value
    )
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 …")) is not None
    assert out_of_memory(RuntimeError("shapes differ")) is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "data.test_size=3000000000",
            r"test_size=3000000000 of image_size=8 .* takes .*TB, and .* at most",
        ),
        ("data.image_size=60000", r"train_size=64 of image_size=60000 .* takes"),
        ("data.num_workers=100000", r"num_workers must be a whole number from 0 to 256, found 100000"),
        ("data.eval_batch_size=0", r"eval_batch_size must be"),
    ],
)
def test_sizes_that_no_machine_holds(command, setting, message):
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        command("run_dir=run", setting)


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("outputs/first", "'outputs/first' is no setting: settings are written KEY=VALUE, and --help lists them"),
        ("run=out/seed=1", 'here run="out/seed=1" within the shell\'s'),
        ("run=a#b", 'here run="a#b" within the shell\'s'),
        ('run=a"b#', "here run='a\"b#' within the shell's"),
        ("method=[kd,at", "look for brackets or quotes that do not close"),
        ('run="a', "look for brackets or quotes that do not close"),
    ],
)
def test_words_that_hydra_cannot_read(word, line):
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides([word])
    said = one_line(caught.value)
    assert line in said
    assert "hydra.cc" not in said
    if advised := re.search(r"here (.*) within", said):  # it can be read, and means what was meant
        (override,) = OverridesParser.create().parse_overrides([advised[1]])
        assert str(override.value()) == word.partition("=")[2]
