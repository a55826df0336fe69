"""The FID's InceptionV3 (Szegedy et al. 2015, in the TensorFlow release of 2015-12-05), built for inference.

It is written as a table: a block is a list of branches, a branch a chain of convolutions and poolings, and every
convolution bears the name its weights have in the usual state dict (`Mixed_5b.branch5x5_1` ...). Batch normalisation is
folded into the convolutions in float64 before anything else, tensors are channels-last, and the 1x1 convolutions by
which a block's branches begin run as one.

The release differs from the paper in three places, which its users must follow: average poolings leave the padding out
of the mean, the last block's pooling is a maximum, and there are 1008 classes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError

SIDE = 299
SPATIAL = 7  # channels of the spatial layer, 17 x 17 pixels each, in TensorFlow's order: rows, columns, channels
LAYERS = ("64", "192", "spatial", "768", "2048", "logits_unbiased", "logits")
BN_EPS = 1e-3


class Conv(NamedTuple):
    """A convolution with folded batch normalisation and a ReLU: weights' name, stride, padding."""

    name: str
    stride: int = 1
    pad: tuple[int, int] = (0, 0)


class Fork(NamedTuple):
    """Convolutions side by side on one input, joined."""

    convs: tuple[Conv, ...]


AVERAGE, MAXIMUM, MAXIMUM_DOWN = "average 3x3", "maximum 3x3", "maximum 3x3 stride 2"
Branch = Sequence["Conv | Fork | str"]


# The kinds of blocks: on maps of side 35 (A), from 35 to 17 (B), of 17 (C), from 17 to 8 (D), and of 8 (E).
WIDE, TALL = (0, 3), (3, 0)
A: list[Branch] = [
    [Conv("branch1x1")],
    [Conv("branch5x5_1"), Conv("branch5x5_2", pad=(2, 2))],
    [Conv("branch3x3dbl_1"), Conv("branch3x3dbl_2", pad=(1, 1)), Conv("branch3x3dbl_3", pad=(1, 1))],
    [AVERAGE, Conv("branch_pool")]]
B: list[Branch] = [
    [Conv("branch3x3", stride=2)],
    [Conv("branch3x3dbl_1"), Conv("branch3x3dbl_2", pad=(1, 1)), Conv("branch3x3dbl_3", stride=2)],
    [MAXIMUM_DOWN]]
C: list[Branch] = [
    [Conv("branch1x1")],
    [Conv("branch7x7_1"), Conv("branch7x7_2", pad=WIDE), Conv("branch7x7_3", pad=TALL)],
    [Conv("branch7x7dbl_1"), Conv("branch7x7dbl_2", pad=TALL), Conv("branch7x7dbl_3", pad=WIDE),
     Conv("branch7x7dbl_4", pad=TALL), Conv("branch7x7dbl_5", pad=WIDE)],
    [AVERAGE, Conv("branch_pool")]]
D: list[Branch] = [
    [Conv("branch3x3_1"), Conv("branch3x3_2", stride=2)],
    [Conv("branch7x7x3_1"), Conv("branch7x7x3_2", pad=WIDE), Conv("branch7x7x3_3", pad=TALL),
     Conv("branch7x7x3_4", stride=2)],
    [MAXIMUM_DOWN]]
E: list[Branch] = [
    [Conv("branch1x1")],
    [Conv("branch3x3_1"), Fork((Conv("branch3x3_2a", pad=(0, 1)), Conv("branch3x3_2b", pad=(1, 0))))],
    [Conv("branch3x3dbl_1"), Conv("branch3x3dbl_2", pad=(1, 1)),
     Fork((Conv("branch3x3dbl_3a", pad=(0, 1)), Conv("branch3x3dbl_3b", pad=(1, 0))))]]


def _named(block: str, kind: list[Branch]) -> list[Branch]:
    """A kind of block with the names that the weights of this one have."""
    def own(conv: Conv) -> Conv:
        return conv._replace(name=f"{block}.{conv.name}")

    def named(step: "Conv | Fork | str") -> "Conv | Fork | str":
        if isinstance(step, Fork):
            return Fork(tuple(map(own, step.convs)))
        return own(step) if isinstance(step, Conv) else step

    return [[named(step) for step in branch] for branch in kind]


# the network: stages that end where features are read
STAGES: list[tuple[str, list[list[Branch]]]] = [
    ("64", [[[Conv("Conv2d_1a_3x3", stride=2), Conv("Conv2d_2a_3x3"), Conv("Conv2d_2b_3x3", pad=(1, 1)),
              MAXIMUM_DOWN]]]),
    ("192", [[[Conv("Conv2d_3b_1x1"), Conv("Conv2d_4a_3x3"), MAXIMUM_DOWN]]]),
    ("spatial", [_named(f"Mixed_{name}", kind) for name, kind in
                 (("5b", A), ("5c", A), ("5d", A), ("6a", B), ("6b", C), ("6c", C), ("6d", C))]),
    ("768", [_named("Mixed_6e", C)]),
    ("2048", [_named("Mixed_7a", D), _named("Mixed_7b", [*E, [AVERAGE, Conv("branch_pool")]]),
              _named("Mixed_7c", [*E, [MAXIMUM, Conv("branch_pool")]])]),
]


class Inception(nn.Module):
    """The network for some of its outputs, with weights from a state dict in the usual names.

    Args:
        state: tensors by name; without `fc.weight` there are no logits.
        layers: which of LAYERS are wanted; nothing is computed beyond the last of them.
        dtype: float32, bfloat16 or float64: of weights and arithmetic. Means over maps, and what follows, are at least
            float32.
        layout: torch.channels_last or torch.contiguous_format, of weights and maps.
    """

    def __init__(self, state: Mapping[str, Tensor], layers: Sequence[str], dtype: torch.dtype = torch.float32,
                 layout: torch.memory_format = torch.channels_last):
        super().__init__()
        self.layers, self.dtype, self.layout = tuple(layers), dtype, layout
        self.wide = torch.promote_types(dtype, torch.float32)  # of the results
        # stages up to the last one wanted; logits come after the last stage, where the slice ends by itself
        last = max(LAYERS.index(layer) for layer in layers)
        self.stages = STAGES[:last + 1]
        # their convolutions' weights, batch normalisation folded in
        for conv in (c for _, blocks in self.stages for block in blocks for branch in block for c in _convs(branch)):
            weight, bias = _folded(state, conv.name)
            self.register_buffer(_key(conv.name, "weight"), weight.to(dtype).contiguous(memory_format=layout))
            self.register_buffer(_key(conv.name, "bias"), bias.to(dtype))
        self._join_heads()
        # the classifier, where logits are wanted
        if last > LAYERS.index("2048"):
            if "fc.weight" not in state:
                raise UserError("these Inception weights have no classifier, so there are no logits")
            self.register_buffer("fc_weight", state["fc.weight"].to(self.wide))
            self.register_buffer("fc_bias", state["fc.bias"].to(self.wide))

    def _join_heads(self) -> None:
        """Put the 1x1 convolutions that open a block's branches into one: same input, one pass over it."""
        self.widths: dict[str, int] = {}
        for heads in (_heads(block) for _, blocks in self.stages for block in blocks):
            if len(heads) < 2:
                continue
            for part in ("weight", "bias"):
                # their output channels, one behind the other
                joined = torch.cat([self.get_buffer(_key(head.name, part)) for head in heads])
                layout = self.layout if part == "weight" else torch.contiguous_format
                self.register_buffer(_key(_joined(heads), part), joined.contiguous(memory_format=layout))
            for head in heads:
                # where to cut the joined output; the single convolution is needed no more
                self.widths[head.name] = len(self.get_buffer(_key(head.name, "bias")))
                for part in ("weight", "bias"):
                    del self._buffers[_key(head.name, part)]

    @torch.inference_mode()
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """x: (B,3,299,299), nominally in [-1,1]. Returns layer -> (B,d)."""
        x = x.to(self.dtype).contiguous(memory_format=self.layout)
        found: dict[str, Tensor] = {}
        # features are means over the maps at a stage's end; logits need those of the last stage
        for layer, blocks in self.stages:
            for block in blocks:
                x = self._block(x, block)
            if layer == "spatial":
                # maps as they are: the first channels are those of the block's 1x1 convolution, `mixed_6/conv`
                found[layer] = x[:, :SPATIAL].to(self.wide).permute(0, 2, 3, 1).flatten(1)
            elif layer in self.layers or layer == "2048":
                found[layer] = x.to(self.wide).mean((2, 3))
        if "logits_unbiased" in self.layers or "logits" in self.layers:
            unbiased = found["2048"] @ self.get_buffer("fc_weight").T
            found |= {"logits_unbiased": unbiased, "logits": unbiased + self.get_buffer("fc_bias")}
        return {layer: found[layer] for layer in self.layers}

    def _block(self, x: Tensor, block: Sequence[Branch]) -> Tensor:
        heads = _heads(block)
        if len(heads) < 2:
            # nothing to share: every branch begins by itself
            outputs = [self._chain(x, branch) for branch in block]
            return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)
        # one convolution opens several branches, and each goes on with its part of the output
        first = self._conv(x, Conv(_joined(heads)))
        opened = dict(zip(heads, first.split([self.widths[h.name] for h in heads], 1)))
        outputs = [self._chain(opened[branch[0]], branch[1:]) if branch[0] in opened else  # type: ignore[index]
                   self._chain(x, branch) for branch in block]
        return torch.cat(outputs, 1)

    def _chain(self, x: Tensor, branch: Branch) -> Tensor:
        for step in branch:
            if isinstance(step, Conv):
                x = self._conv(x, step)
            elif isinstance(step, Fork):
                x = torch.cat([self._conv(x, conv) for conv in step.convs], 1)
            elif step == AVERAGE:
                x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
            elif step == MAXIMUM:
                x = F.max_pool2d(x, 3, 1, 1)
            else:
                x = F.max_pool2d(x, 3, 2)
        return x

    def _conv(self, x: Tensor, conv: Conv) -> Tensor:
        weight, bias = self.get_buffer(_key(conv.name, "weight")), self.get_buffer(_key(conv.name, "bias"))
        return F.relu_(F.conv2d(x, weight, bias, conv.stride, conv.pad))


def graph_names() -> dict[str, str]:
    """Name of each convolution in TensorFlow's graph (dots as underscores) -> our name for it.

    In the graph a branch of one convolution is `conv`, the others are `tower`, `tower_1` ...; within one the
    convolutions are counted, and those of a fork are counted apart, as `mixed_conv`.
    """
    def count(name: str, index: int) -> str:
        return f"{name}_{index}" if index else name

    blocks = [block for _, stage in STAGES for block in stage]
    # the first convolutions belong to no block and are counted through
    names = {count("conv", i): conv.name for i, conv in enumerate(_convs(blocks[0][0]) + _convs(blocks[1][0]))}
    for position, block in enumerate(blocks[2:]):
        # every branch of more than one step is the block's next tower
        towers = 0
        for branch in block:
            where = count("mixed", position)
            if len(branch) > 1:
                where, towers = f"{where}_{count('tower', towers)}", towers + 1
            plain = [step for step in branch if isinstance(step, Conv)]
            forked = [conv for step in branch if isinstance(step, Fork) for conv in step.convs]
            names |= {f"{where}_{count('conv', i)}": conv.name for i, conv in enumerate(plain)}
            names |= {f"{where}_{count('mixed_conv', i)}": conv.name for i, conv in enumerate(forked)}
    return names


def _convs(branch: Branch) -> list[Conv]:
    """All convolutions of a branch, those of its forks among them."""
    return [conv for step in branch if not isinstance(step, str)
            for conv in (step.convs if isinstance(step, Fork) else (step,))]


def _heads(block: Sequence[Branch]) -> list[Conv]:
    """The 1x1 convolutions by which branches begin."""
    names = ("branch1x1", "branch5x5_1", "branch3x3_1", "branch3x3dbl_1", "branch7x7_1", "branch7x7dbl_1",
             "branch7x7x3_1")
    return [b[0] for b in block if isinstance(b[0], Conv) and b[0].name.split(".")[-1] in names]


def _joined(heads: Sequence[Conv]) -> str:
    return heads[0].name.split(".")[0] + ".heads"


def _key(name: str, part: str) -> str:
    return f"{name}_{part}".replace(".", "_")


def _folded(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Convolution weight and bias with the batch normalisation folded in, float64."""
    try:
        weight, beta, mean, var = (state[f"{name}.{leaf}"].double() for leaf in
                                   ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var"))
    except KeyError as error:
        raise UserError(f"the Inception weights lack {error}: they are not those of the FID network") from None
    # a scale that is not there (TensorFlow's release has none) is 1
    gamma = state.get(f"{name}.bn.weight")
    scale = (torch.ones_like(var) if gamma is None else gamma.double()) / (var + BN_EPS).sqrt()
    return weight * scale[:, None, None, None], beta - mean * scale
