"""CelebA in the wild (Liu, Luo, Wang, Tang 2015): the photographs before alignment."""

from ganbench.data.sources.celeba import CelebASource


class CelebAWild(CelebASource):
    """202,599 photographs of any size. A folder img_celeba, or a zip of it. Splits as celeba; the centre square by
    default.
    """

    title = "CelebA in the wild, 202,599 photographs of any size, 40 attributes (Liu et al. 2015)"
    default_side = 128
    inside = ("img_celeba", "img_celeba/img_celeba", "img_celeba.zip")
    needs = ("the folder img_celeba, unpacked from img_celeba.7z, and beside it, for the official splits and the "
             "attributes, list_eval_partition.txt and list_attr_celeba.txt")
