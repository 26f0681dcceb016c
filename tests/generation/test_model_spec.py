"""What a model is named by: bad values are refused by the field's name."""

from typing import Any

import pytest

from gptcli.core.errors import UsageError
from gptcli.generation.model_spec import ModelSpec


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("seed", {"seed": -1}),
        ("seed", {"seed": 2**64}),
        ("threads", {"threads": 0}),
        ("device", {"device": "tpu"}),
        ("device", {"device": "cuda:"}),
        ("dtype", {"dtype": "bfloat16", "quantize": "int8"}),
        ("engine", {"engine": "native", "device": "cuda"}),
    ],
)
def test_what_cannot_be_is_refused_by_its_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as problem:
        ModelSpec(**values)
    assert problem.value.where == field


def test_nothing_named_is_the_built_in_model_on_a_cpu() -> None:
    spec = ModelSpec()
    assert (spec.model, spec.device, spec.dtype, spec.engine) == (None, "cpu", "auto", "auto")
