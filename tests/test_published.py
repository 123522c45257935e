"""The slow side of the benchmarks computes the same numbers as the model that it is compared with."""

import torch

from benchmarks.published import PublishedDEDN
from dedn_hf import DEDNForZeroShot
from tests.tables import small_table


def test_the_published_formulation_has_the_same_losses_gradients_and_logits():
    table = small_table()
    ours, published = (
        kind.from_timm(None, table, feature_shape=[12, 3, 5]) for kind in (DEDNForZeroShot, PublishedDEDN)
    )
    torch.manual_seed(0)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter)  # keys, too, which start at 0
    published.load_state_dict(ours.state_dict())
    features, labels = torch.randn(4, 12, 3, 5), torch.tensor([0, 1, 0, 1])
    outputs = [model.train()(features=features, labels=labels, output_attentions=True) for model in (ours, published)]
    for output in outputs:
        output.loss.backward()
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
    torch.testing.assert_close(outputs[0].region_maps, outputs[1].region_maps)
    gradients = dict(published.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(*(model.eval()(features=features).logits for model in (ours, published)))
