"""The vision transformer of DINOv2 and CLIP, built from the tensors of their published files.

    DINOv2   dinov2_vit{s,b,l,g}14_pretrain.pth: names as below; positions are kept for 518 pixels and resampled
    CLIP     OpenAI's .pt, open_clip's .bin or .safetensors: `names_of_clip` brings the picture half to the names below

Sizes are read off the tensors, so a network of another width or depth needs nothing here.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganbench.errors import UserError

HEAD = 64  # width of an attention head, in all of these networks
OFFSET = 0.1  # DINOv2 resamples positions by (grid + 0.1) / stored grid, and its features depend on that


class VisionTransformer(nn.Module):
    """Pictures in, the class token out (Dosovitskiy et al. 2020; Oquab et al. 2023; Radford et al. 2021).

    Args:
        state: tensors by DINOv2's names; others that CLIP has: `norm_pre.*` and `head.weight` (out,width).
        side: of the pictures, in pixels. eps: of the layer norms.
        quick: x sigmoid(1.702 x) in place of GELU, as OpenAI trained CLIP.
    Raises:
        UserError: tensors are lacking, left over, or of shapes that do not fit.
    """

    def __init__(self, state: Mapping[str, Tensor], side: int, *, eps: float, quick: bool = False):
        super().__init__()
        state = {key: tensor.float() for key, tensor in state.items() if key != "mask_token"}
        try:
            width, channels, patch, _ = state["patch_embed.proj.weight"].shape
            count = state["pos_embed"].shape[1]
            self.grid = side // patch
            state["pos_embed"] = resampled(state["pos_embed"], self.grid)
        except KeyError as error:
            raise UserError(f"these weights lack {error}: they are no vision transformer of DINOv2 or CLIP") from None
        depth = 1 + max((int(key.split(".")[1]) for key in state if key.startswith("blocks.")), default=-1)

        # built without memory: the tensors of the file become its parameters
        with torch.device("meta"):
            self.patch_embed = nn.ModuleDict(
                {"proj": nn.Conv2d(channels, width, patch, patch, bias="patch_embed.proj.bias" in state)})
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            self.pos_embed = nn.Parameter(torch.empty(1, self.grid**2 + 1, width))
            self.norm_pre = nn.LayerNorm(width, eps) if "norm_pre.weight" in state else nn.Identity()
            self.blocks = nn.ModuleList(Block(width, state, f"blocks.{i}.", eps, quick) for i in range(depth))
            self.norm = nn.LayerNorm(width, eps)
            head = state.get("head.weight")
            self.head = nn.Identity() if head is None else nn.Linear(width, len(head), bias=False)
        try:
            self.load_state_dict(state, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"these weights do not fit a vision transformer of width {width}, depth {depth} and "
                            f"{count - 1} patches ({reason})") from None
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: normalised pictures (B,3,side,side). Returns the class token (B,width), and the head's (B,out) of it."""
        # one token a patch, the class token before them, and where each of them is
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        x = self.norm_pre(x)
        for block in self.blocks:
            x = block(x)
        token = self.norm(x[:, 0])
        return token, self.head(token)


class Block(nn.Module):
    """Attention, then a network of two layers, each added to what came in.

    DINOv2 scales both by a vector (`ls1`, `ls2`), and its largest network has a gated second part (`w12`, `w3`).
    """

    def __init__(self, width: int, state: Mapping[str, Tensor], prefix: str, eps: float, quick: bool):
        super().__init__()
        self.quick, self.gated = quick, f"{prefix}mlp.w12.weight" in state
        scaled = f"{prefix}ls1.gamma" in state
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        names = ("w12", "w3") if self.gated else ("fc1", "fc2")
        wide, narrow = (state[f"{prefix}mlp.{name}.bias"] if f"{prefix}mlp.{name}.bias" in state else torch.empty(0)
                        for name in names)
        # the gate and what it gates come as one matrix of twice the hidden width
        hidden = len(wide) // 2 if self.gated else len(wide)
        self.mlp = nn.ModuleDict({names[0]: nn.Linear(width, len(wide)), names[1]: nn.Linear(hidden, len(narrow))})
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": torch.empty(width)} if scaled else {}) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B,tokens,width) to the same."""
        x = x + self._scaled(self._attention(self.norm1(x)), self.ls1)
        return x + self._scaled(self._network(self.norm2(x)), self.ls2)

    def _attention(self, x: Tensor) -> Tensor:
        # heads beside each other, then their answers one behind the other
        batch, tokens, width = x.shape
        queries, keys, values = self.attn["qkv"](x).view(batch, tokens, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(queries, keys, values)
        return self.attn["proj"](found.transpose(1, 2).reshape(batch, tokens, width))

    def _network(self, x: Tensor) -> Tensor:
        if self.gated:
            gate, rest = self.mlp["w12"](x).chunk(2, -1)
            return self.mlp["w3"](F.silu(gate) * rest)
        x = self.mlp["fc1"](x)
        return self.mlp["fc2"](x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))

    @staticmethod
    def _scaled(x: Tensor, scale: nn.ParameterDict) -> Tensor:
        return x * scale["gamma"] if "gamma" in scale else x


def resampled(positions: Tensor, grid: int) -> Tensor:
    """Embeddings of positions (1,1+M*M,width) for a grid of patches of another side, bicubic; as they are if it is M.
    """
    stored = round((positions.shape[1] - 1) ** 0.5)
    if stored == grid:
        return positions
    first, patches = positions[:, :1], positions[:, 1:].reshape(1, stored, stored, -1).permute(0, 3, 1, 2)
    # the scale is given, not the size: it also says where the cubic is evaluated
    scale = (grid + OFFSET) / stored
    patches = F.interpolate(patches, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    return torch.cat([first, patches.flatten(2).transpose(1, 2)], 1)


# CLIP's name of a part -> ours; of blocks, what follows their number
CLIP_PARTS = {"conv1": "patch_embed.proj", "ln_pre": "norm_pre", "ln_post": "norm"}
CLIP_BLOCK = {"ln_1": "norm1", "ln_2": "norm2", "attn.out_proj": "attn.proj", "mlp.c_fc": "mlp.fc1",
              "mlp.c_proj": "mlp.fc2"}


def names_of_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The picture half of a CLIP state dict in our names. Raises UserError where it has no vision transformer."""
    if "visual.class_embedding" not in state:
        raise UserError("these weights have no visual.class_embedding: they are no CLIP with a vision transformer")
    found = {}
    for key, tensor in state.items():
        if not key.startswith("visual."):
            continue
        part, _, leaf = key.removeprefix("visual.").rpartition(".")
        if part.startswith("transformer.resblocks."):
            number, _, part = part.removeprefix("transformer.resblocks.").partition(".")
            # queries, keys and values: one matrix in both, but a leaf of the attention itself in CLIP's names
            if part == "attn":
                part, leaf = "attn.qkv", leaf.removeprefix("in_proj_")
            found[f"blocks.{number}.{CLIP_BLOCK.get(part, part)}.{leaf}"] = tensor
        elif part:
            found[f"{CLIP_PARTS.get(part, part)}.{leaf}"] = tensor
    found["cls_token"] = state["visual.class_embedding"].reshape(1, 1, -1)
    found["pos_embed"] = state["visual.positional_embedding"][None]
    found["head.weight"] = state["visual.proj"].T
    return found
