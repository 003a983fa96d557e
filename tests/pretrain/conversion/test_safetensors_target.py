"""Our own format holds every expert and has no role. CPU, seconds."""

import pytest

from pretrain.conversion.safetensors_target import SafetensorsTarget


def test_a_role_is_refused() -> None:
    assert SafetensorsTarget(None).uses == ("image", "text", "pair")
    with pytest.raises(ValueError, match="serve every use; leave out --role"):
        SafetensorsTarget("dual")
