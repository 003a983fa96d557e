"""The heads and their losses: against plain cross entropy at the masked positions. CPU, seconds."""

import torch
from torch.nn.functional import cross_entropy

from model.masked_data_model import PredictionHead
from model.objective import IGNORE_INDEX, OBJECTIVES
from tests.support.tiny import tiny_inputs, tiny_model, tiny_targets


def test_a_head_gives_logits_or_losses() -> None:
    head, hidden = PredictionHead(4, 7), torch.randn(2, 3, 4)
    labels = torch.tensor([[1, IGNORE_INDEX, 6], [0, 2, 3]])
    logits, losses = head(hidden), head(hidden, labels)
    assert logits.shape == (2, 3, 7) and losses.dtype == torch.float32
    torch.testing.assert_close(losses, cross_entropy(logits.mT, labels, reduction="none"))
    assert losses[0, 1] == 0


def test_losses_are_sums_over_the_labels_of_each_objective() -> None:
    model, inputs = tiny_model(), tiny_inputs(2, 3, 4)
    targets = tiny_targets(inputs)
    targets.visual_token_ids[1] = IGNORE_INDEX  # a whole image
    with torch.no_grad():
        found, states = model(inputs, targets), model.encode(inputs)

    def expected(head: PredictionHead, hidden: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor) -> float:
        total = 0.0
        for sample, place, label in zip(
            torch.arange(len(labels)).repeat_interleave(labels.shape[1]), positions.flatten(), labels.flatten(),
            strict=True,
        ):  # fmt: skip
            if label != IGNORE_INDEX:
                total += float(cross_entropy(head(hidden[sample, place]), label).detach())
        return total

    patches = states.images[:, 1:]
    image_labels, text = targets.visual_token_ids, (model.mlm_head, states.texts)
    sums = {
        "mim": expected(model.mim_head, patches[:2], targets.image_positions[:2], image_labels[:2]),
        "mlm": expected(*text, targets.text_positions, targets.text_labels),
        "mvlm_image": expected(model.mim_head, patches[2:], targets.image_positions[2:], image_labels[2:]),
        "mvlm_text": expected(model.mlm_head, states.captions, targets.caption_positions, targets.caption_labels),
    }
    torch.testing.assert_close(found, torch.tensor([sums[name] for name in OBJECTIVES]), atol=1e-4, rtol=1e-4)
    assert targets.counts().tolist() == [5, 6, 15, 7]
