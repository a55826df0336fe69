"""CelebA (Liu, Luo, Wang, Tang 2015), the aligned and cropped images of 178x218."""

from ganbench.data.celeba import CelebASource
from ganbench.data.crops import CELEBA


class CelebA(CelebASource):
    """202,599 faces. A folder of images, img_align_celeba.zip, or torchvision's tree.

    Splits: the official partition, from list_eval_partition.txt or, where all images are there, from their numbers; of
    a part of the images without that file, a fixed tenth is the test split. `--split all` takes all 202,599, as the
    PGGAN paper does. Crops: c108 below 128 px and c128p at 128 px by default.
    """

    title = "CelebA aligned, 202,599 faces of 178x218, 40 attributes (Liu et al. 2015)"
    default_side = 128
    crops = CELEBA
    default_crops = {0: "c108", 128: "c128p", 256: "c178", 512: "c178", 1024: "c178"}
    inside = ("img_align_celeba", "img_align_celeba_png", "img_align_celeba/img_align_celeba", "img_align_celeba.zip")
    needs = ("img_align_celeba.zip or the folder img_align_celeba unpacked from it, and beside it, for the official splits and the "
             "attributes, list_eval_partition.txt and list_attr_celeba.txt")
