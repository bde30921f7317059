"""Rewriting networks so that they compute the same with less work; parameters, and so weights files, stay as they are.

Two thirds of U-Net++'s work are 3×3 convolutions of maps that were just enlarged by repeating pixels. Convolving the small map with
the transposed 4×4 kernel of both together is the same sum with 4 products instead of 9. What is constant after training
(normalised weights, batch normalisation) is computed once.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any, cast

import torch
import torch.nn.functional as F
from monai.networks.utils import set_named_module
from segmentation_models_pytorch.decoders.unetplusplus.decoder import DecoderBlock
from timm.layers.std_conv import ScaledStdConv2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def upsampled_kernel(weight: torch.Tensor) -> torch.Tensor:
    """The kernel ``(I, O, 4, 4)`` of the transposed convolution, stride 2 and padding 1, that equals repeating every pixel twice and
    then convolving with ``weight`` ``(O, I, 3, 3)`` and padding 1; gradients flow through it.
    """
    flipped = weight.flip(2, 3)
    wide = F.pad(flipped, (0, 1)) + F.pad(flipped, (1, 0))
    return (F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))).transpose(0, 1)


class FoldedDecoderBlock(nn.Module):
    """A U-Net++ decoder block that convolves its input before enlarging it; same parameters, which are shared, same result to rounding."""

    def __init__(self, block: DecoderBlock) -> None:
        super().__init__()
        self.conv1, self.conv2 = block.conv1, block.conv2

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """``(B, C, H, W)`` and what skips the levels below, ``(B, S, 2H, 2W)``, to ``(B, O, 2H, 2W)``."""
        convolution, norm, activation = cast(Any, self.conv1)
        weight, below = convolution.weight, x.shape[1]
        x = F.conv_transpose2d(x, upsampled_kernel(weight[:, :below]), convolution.bias, stride=2, padding=1)
        if skip is not None:
            x = x + F.conv2d(skip, weight[:, below:], padding=1)
        return cast(Any, self.conv2)(activation(norm(x)))


class ConstantDecoderBlock(nn.Module):
    """A :class:`FoldedDecoderBlock` for inference, with ``below`` enlarged channels: kernels and normalisation are computed once."""

    def __init__(self, block: DecoderBlock, below: int) -> None:
        super().__init__()
        first, second = (_without_norm(layers[0], layers[1]) for layers in (block.conv1, block.conv2))
        outputs, skipped = first.out_channels, first.in_channels - below
        self.up = nn.ConvTranspose2d(below, outputs, 4, stride=2, padding=1)
        self.up.weight.data = upsampled_kernel(first.weight.data[:, :below]).contiguous()
        self.up.bias.data = first.bias.data.clone()  # type: ignore[union-attr]
        self.skip = None
        if skipped:
            self.skip = nn.Conv2d(skipped, outputs, 3, padding=1, bias=False)
            self.skip.weight.data = first.weight.data[:, below:].contiguous()
        self.conv2 = second

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        """As :class:`FoldedDecoderBlock`."""
        x = self.up(x)
        if self.skip is not None:
            x = x + self.skip(skip)
        return F.relu(self.conv2(F.relu(x)))


def _without_norm(convolution: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    folded = copy.deepcopy(convolution)
    if folded.bias is None:
        folded.bias = nn.Parameter(folded.weight.new_zeros(folded.out_channels))
    return fuse_conv_bn_eval(folded, copy.deepcopy(norm)) if isinstance(norm, nn.BatchNorm2d) else folded


def _can_fold(block: nn.Module) -> bool:
    return (
        isinstance(block, DecoderBlock)
        and not block.is_empty
        and block.interpolation_mode == "nearest"
        and all(isinstance(one.attention, nn.Identity) for one in (block.attention1, block.attention2))
        and all(isinstance(one[1], (nn.BatchNorm2d, nn.Identity)) for one in (block.conv1, block.conv2))
    )


def _foldable(network: nn.Module) -> list[tuple[Any, str]]:
    """A U-Net++'s decoder with the name of each block that can be folded; nothing of another network."""
    decoder: Any = getattr(network, "decoder", None)
    blocks = getattr(decoder, "blocks", None)
    return (
        [(decoder, name) for name, block in blocks.items() if _can_fold(block)]
        if isinstance(blocks, nn.ModuleDict)
        else []
    )


def fold_decoder(network: nn.Module) -> nn.Module:
    """Make the decoder blocks of a U-Net++ :class:`FoldedDecoderBlock`, in place; fit for training and inference.

    Other networks, and blocks that do not repeat pixels, stay as they are.
    """
    for decoder, name in _foldable(network):
        decoder.blocks[name] = FoldedDecoderBlock(decoder.blocks[name])
    return network


def fold_constants(network: nn.Module) -> nn.Module:
    """A copy of a trained network with constants computed: for inference only, in eval mode."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for decoder, name in _foldable(network):
        depth, layer = map(int, name.split("_")[1:])
        below = decoder.in_channels[layer] if depth == 0 else decoder.skip_channels[layer - 1]
        decoder.blocks[name] = ConstantDecoderBlock(decoder.blocks[name], below)
    for name, module in list(network.named_modules()):
        if isinstance(module, ScaledStdConv2d):
            set_named_module(network, name, _plain_convolution(module))
    _fold_norms(network)
    return network.eval().requires_grad_(False)


def _fold_norms(network: nn.Module) -> None:
    """Fold every batch normalisation that follows a convolution into it, in place.

    The order of layers is traced with a small picture; if its output changes, because a convolution's output is used
    elsewhere as well, the network stays as it is.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return
    names = {module: name for name, module in network.named_modules()}
    made: list[tuple[torch.Tensor, nn.Conv2d]] = []  # kept, as another tensor could take the place of one
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def look(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.BatchNorm2d):
            pairs.update((module, convolution) for tensor, convolution in made if tensor is inputs[0])
        else:
            made.append((output, cast(nn.Conv2d, module)))

    hooks = [module.register_forward_hook(look) for module in names if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))]
    first = next(network.parameters())
    picture = torch.linspace(-2, 2, 3 * 64 * 64, dtype=first.dtype, device=first.device).view(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(picture)
    for hook in hooks:
        hook.remove()
    for norm, convolution in pairs.items():
        set_named_module(network, names[convolution], _without_norm(convolution, norm))
        # timm's normalisations hold the activation that follows them
        after = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]
        set_named_module(network, names[norm], nn.Sequential(*after))
    with torch.no_grad():
        same = (network(picture) - expected).abs().max() <= 1e-3 * expected.abs().max()
    if not same:
        for module in itertools.chain.from_iterable(pairs.items()):
            set_named_module(network, names[module], module)


def _plain_convolution(scaled: ScaledStdConv2d) -> nn.Conv2d:
    """The convolution that equals one with scaled weight standardisation whose weights no longer change."""
    same = ("kernel_size", "stride", "padding", "dilation", "groups")
    options: dict[str, Any] = {name: getattr(scaled, name) for name in same}
    plain = nn.Conv2d(scaled.in_channels, scaled.out_channels, **options, bias=scaled.bias is not None)
    flat = scaled.weight.data.reshape(1, scaled.out_channels, -1)
    gain = (scaled.gain.data * scaled.scale).view(-1)
    normalised = F.batch_norm(flat, None, None, weight=gain, training=True, momentum=0.0, eps=scaled.eps)
    plain.weight.data = normalised.reshape_as(scaled.weight)
    if scaled.bias is not None:
        plain.bias.data = scaled.bias.data.clone()  # type: ignore[union-attr]
    return plain
