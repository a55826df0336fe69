"""sFID, a Frechet distance that sees where things are in a picture."""

from ganbench.metrics.measures.fid import Fid


class Sfid(Fid):
    """The Frechet distance of FID between maps of Inception: the first 7 channels of `mixed_6/conv`, 17 x 17 pixels
    each, 2,023 numbers a picture, in which places are kept apart instead of averaged over.

    As in guided-diffusion's evaluator; its files of statistics (mu_s, sigma_s) may stand for the reals. (dgm-eval takes
    the channels of a later block.)

    Args:
        As of FeatureMetric.
    """

    title = "sFID"
    paper = "Nash, Menick, Dieleman, Battaglia 2021, ICML, arXiv 2103.03841, section 4.1"
    summary = ("FID with features that know their place: it notices wrong layouts that FID's averages over the picture "
               "hide. Compare only at equal numbers of images.")

    def _network_defaults(self) -> tuple[str, str]:
        return self.features, "spatial"
