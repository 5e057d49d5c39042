import pytest
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctkd_lightning.errors import UserError
from ctkd_lightning.job.explain import one_line

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
