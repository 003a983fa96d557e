"""Names of the figures that monitors draw. CPU, no time at all."""

from pretrain.monitoring.figures import figures_of


def test_groups_have_names_with_slashes_and_missing_figures_are_left_out() -> None:
    record = {
        "step": 3,
        "loss": 1.5,
        "losses": {"mim": 1.0, "mlm": None},
        "grad_norms": {"vision": 2.0},
        "passes": {"image": {"/data/coco": 0.5, "https://host/shards": 1.5}},
        "skipped": False,
        "keys": ["a"],
        "mfu": None,
    }
    assert figures_of(record) == {
        "loss": 1.5,
        "loss/mim": 1.0,
        "grad_norm/vision": 2.0,
        "passes/image/data/coco": 0.5,
        "passes/image/https/host/shards": 1.5,
    }
