"""FD-DINOv2, the Frechet distance between DINOv2 features."""

from ganbench.metrics.measures.fid import Fid


class FdDinov2(Fid):
    """The Frechet distance of FID between class tokens of DINOv2 ViT-L/14 (1,024 numbers) at 224 pixels.

    Pictures are resized by Pillow's bicubic to bytes, as dgm-eval does (Stein et al. 2023); `--compat edm2` takes
    PyTorch's antialiased bicubic without rounding, as EDM2 does. Weights are read from dinov2_vitl14_pretrain.pth.

    Args:
        As of FeatureMetric.
    """

    title = "FD-DINOv2"
    paper = "Stein, Cresswell, Hosseinzadeh et al. 2023, NeurIPS, arXiv 2306.04675"
    summary = ("FID with DINOv2's features, which were learnt without labels and agree better with what people find "
               "real. Values are hundreds where FID's are ones.")
    features = "dinov2-vit-l-14"
