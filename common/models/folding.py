"""Batch norm in evaluation mode is an affine map; folded into the convolution before it, it costs nothing."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of `network` for inference, each batch norm that directly follows a convolution folded into it.

    Args:
        network: in evaluation mode, traceable by torch.fx; left as it is.

    Returns:
        A module with the same outputs up to rounding.
    """
    traced = fx.symbolic_trace(network)
    modules: dict[str, nn.Module] = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(norm := modules[node.target], nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1:
            continue
        if not isinstance(conv := modules[before.target], nn.Conv2d):
            continue
        folded = fuse_conv_bn_eval(conv, norm)
        owner, _, attribute = before.target.rpartition(".")
        setattr(traced.get_submodule(owner), attribute, folded)
        modules[before.target] = folded
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced
