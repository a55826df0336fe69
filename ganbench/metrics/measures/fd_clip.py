"""FD-CLIP, the Frechet distance between CLIP embeddings of pictures."""

from ganbench.metrics.measures.fid import Fid


class FdClip(Fid):
    """The Frechet distance of FID between picture embeddings of OpenAI's CLIP ViT-B/32 (512 numbers) at 224 pixels.

    Pictures are resized by Pillow's bicubic to bytes, as clean-fid's `clip_vit_b_32` does. For dgm-eval's numbers take
    `--network clip-vit-l-14-datacomp --layer token`: DataComp's ViT-L/14, before the projection.

    Args:
        As of FeatureMetric.
    """

    title = "FD-CLIP"
    paper = "Kynkaanniemi, Karras, Aittala, Aila, Lehtinen 2023, ICLR, arXiv 2203.06026"
    summary = ("FID with CLIP's features: matching the mixture of ImageNet classes alone does not lower it, as it "
               "lowers FID.")
    features = "clip-vit-b-32"
