"""PixelRNN with Row LSTM layers (van den Oord, Kalchbrenner, Kavukcuoglu, ICML 2016, arXiv 1601.06759, section 3.1).

As family `pixelcnn`, of the same paper, but each layer is an LSTM that runs from row to row, whose state reaches one
column further to both sides with every row: a pixel sees a triangle of all rows above instead of a stack of small
windows. Latents are the same uniform noise. The paper's Diagonal BiLSTM is not here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.family import Preset, setting
from ganbench.models import pixelcnn
from ganbench.models.nn.layers import MaskedConv2d


class PixelRNNConfig(pixelcnn.PixelCNNConfig):
    """Settings, each with where its default is from."""

    hidden: int = setting(128, "maps h of an LSTM's state; 2h between layers", "table 1", ge=1)
    blocks: int = setting(12, "Row LSTM layers", "section 5.2", ge=1)


class RowLSTM(nn.Module):
    """Gates from a masked 3-wide convolution along the row, and from a 3-wide one over the row above's state; plus the
    input.

    (B,2h,S,S) -> (B,2h,S,S).
    """

    def __init__(self, hidden: int, colours: int):
        super().__init__()
        self.hidden = hidden
        self.inward = MaskedConv2d("B", 2 * hidden, 4 * hidden, (1, 3), colours)
        # each of the four gates has all colours, as the state has
        self.inward.mask.copy_(MaskedConv2d("B", 2 * hidden, hidden, (1, 3), colours).mask.repeat(4, 1, 1, 1))
        self.above = nn.Conv1d(hidden, 4 * hidden, 3, padding=1, bias=False)
        self.up = MaskedConv2d("B", hidden, 2 * hidden, 1, colours)

    def forward(self, x: Tensor) -> Tensor:
        """(B,2h,S,S) -> the same shape."""
        gates, rows = self.inward(x), []
        state = cell = x.new_zeros(len(x), self.hidden, x.shape[3])
        # the input's share of all gates was one convolution; only the states go row by row
        for gate in gates.unbind(2):
            state, cell = self.update(gate + self.above(state), cell)
            rows.append(state)
        return x + self.up(torch.stack(rows, 2))

    @staticmethod
    def update(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """State and cell (B,h,...) from gates (B,4h,...) output, forget, input, content, and the cell above: eq. 3."""
        output, forget, entry, content = gates.chunk(4, 1)
        # what is kept of the cell above, and what is taken in
        cell = forget.sigmoid() * cell + entry.sigmoid() * content.tanh()
        return output.sigmoid() * cell.tanh(), cell


class RowNet(pixelcnn.PixelNet):
    """Images (B,C,S,S) in [-1,1] -> logits (B,C,levels,S,S) of each pixel given those before it."""

    def block(self, hidden: int) -> nn.Module:
        """One Row LSTM layer."""
        return RowLSTM(hidden, self.colours)

    @torch.no_grad()
    def draw(self, noise: Tensor) -> Tensor:
        """Images (B,C,S,S) in [-1,1], pixel after pixel, from U(0,1) of the same shape; each layer at one pixel at a
        time."""
        batch, colours, side = noise.shape[:3]
        layers = [block for block in self.blocks if isinstance(block, RowLSTM)]
        images = noise.new_zeros(batch, side + 6, side + 6, colours)  # padded for the 7x7 kernel
        weights = {layer: (layer.weight * layer.mask).permute(0, 2, 3, 1).flatten(1) for layer in self.modules()
                   if isinstance(layer, MaskedConv2d)}

        def at(layer: MaskedConv2d, patch: Tensor) -> Tensor:
            """A layer's output (B,outputs) at one pixel, from the patch (B,1,k,inputs) around it."""
            return F.linear(patch.flatten(1), weights[layer], layer.bias)

        def empty(layer: RowLSTM) -> Tensor:
            return noise.new_zeros(batch, layer.hidden, side)

        # the row above the image: states and cells of nothing
        states, cells = [empty(layer) for layer in layers], [empty(layer) for layer in layers]
        for i in range(side):
            # a new row: what the row above gives to its gates is known at once, its inputs are not
            inputs = [noise.new_zeros(batch, side + 2, 2 * layer.hidden) for layer in layers]
            above = [layer.above(state) for layer, state in zip(layers, states)]
            former, cells, states = cells, [empty(layer) for layer in layers], [empty(layer) for layer in layers]
            for j in range(side):
                for colour in range(colours):
                    # through the stack at this pixel, each layer's state written where the next row reads it
                    x = at(self.first, images[:, i:i + 7, j:j + 7])
                    for k, layer in enumerate(layers):
                        inputs[k][:, j + 1] = x
                        gates = at(layer.inward, inputs[k][:, j:j + 3]) + above[k][..., j]
                        states[k][..., j], cells[k][..., j] = layer.update(gates, former[k][..., j])
                        x = x + at(layer.up, states[k][..., j])
                    # the colour's distribution, and a draw from it by its latent
                    out = at(self.out, F.relu(at(self.head2, F.relu(at(self.head1, F.relu(x))))))
                    images[:, i + 3, j + 3, colour] = self.choose(out, colour, noise[:, colour, i, j])
        return images[:, 3:-3, 3:-3].permute(0, 3, 1, 2).contiguous()


class PixelRNN(pixelcnn.PixelCNN):
    """PixelRNN with Row LSTM layers."""

    title = "PixelRNN (Row LSTM)"
    summary = ("Every pixel is predicted from those before it, by LSTMs that run down the rows: each step of a state "
               "reads a little of the row above, so a pixel sees a whole triangle of the image. The likelihood is "
               "exact, in bits per dimension. It was the better and slower sister of PixelCNN, for rows must wait for "
               "each other.")
    Config = PixelRNNConfig
    presets = {
        "paper": Preset("the paper's CIFAR-10 Row LSTM (h=128, 12 layers), RMSProp, batch 16: published 3.07 bits/dim; "
                        "the paper gives no length, here 100 epochs of 50,000 images, a GPU, weeks", kimg=5000,
                        optimizer="rmsprop", batch=16),
        "small": Preset("h=32, 4 layers, for grey images: hours on a GPU", hidden=32, blocks=4, head=32),
        "binary": Preset("black and white: likelihoods in nats compare with those on binarised MNIST", hidden=32,
                         blocks=4, head=32, levels=2),
        "laptop": Preset("8 grey levels, a size for two cores", kimg=20, hidden=16,
                         blocks=2, head=32, levels=8, batch=16, rate=2e-3),
        "smoke": Preset("seconds: does it run?", kimg=0.1, hidden=4, blocks=1, head=8, levels=4, batch=8),
    }
    misprints = ("The state's convolution over the row above has no mask, for that row is known whole; the input's, "
                 "along its own row, has. Bits per dimension over fewer levels are smaller by construction.")

    config: PixelRNNConfig

    def make_network(self) -> pixelcnn.PixelNet:
        """The network, with fresh weights."""
        return RowNet(self.config, self.images)
