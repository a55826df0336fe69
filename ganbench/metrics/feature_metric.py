"""What metrics on features share: their network, the two sets, what the cache keeps of the reals."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from ganbench.errors import UserError
from ganbench.metrics.maths import moments
from ganbench.metrics.maths.arrays import check_finite
from ganbench.metrics.maths.frechet import Gaussian
from ganbench.metrics.metric import ImageMetric, Seed
from ganbench.metrics.networks.compat import Compat, find_compat
from ganbench.metrics.networks.features import FeatureNetwork, check_precision, default_layer, open_network
from ganbench.random import Random, derived_seed

SAMPLE = 2048  # features kept of each set where only moments are streamed: they serve the interval


class FeatureMetric(ImageMetric):
    """A metric on the features of a network.

    Args:
        network: a feature network or its name (see ganbench.metrics.networks.features); default: the class's own.
        layer: which of its outputs; default: the network's usual one for this kind of metric.
        compat: whose choices to follow, a name in ganbench.metrics.networks.compat.MODES.
        dtype: the arithmetic of the network, a name in ganbench.metrics.networks.features.PRECISIONS.
        seed: of the metric's own draws.
    """

    features: ClassVar[str] = "inception-v3-compat"  # the network where the caller names none
    kind: ClassVar[str] = "features"  # or "logits"
    states: ClassVar[str]  # what it keeps of a set; metrics that keep the same share it in the cache
    any_shape = True
    rectangles = True

    def __init__(self, network: "str | FeatureNetwork | None" = None, layer: str | None = None,
                 compat: str | Compat = "ganbench", dtype: str = "float32", seed: Seed = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.compat, self.precision, self.seed = find_compat(compat), check_precision(dtype), seed
        # the network: one that is open, a name, or the class's own
        name, chosen = self._network_defaults()
        self.network_name = network.name if isinstance(network, FeatureNetwork) else network or name
        # the layer: the caller's, else the only one of an open network, else the usual one
        if layer is None and isinstance(network, FeatureNetwork) and len(network.layers) == 1:
            layer = network.layers[0]
        usual = chosen if self.network_name == name else ""
        self.layer = layer or usual or default_layer(self.network_name, self.kind)
        self._network: FeatureNetwork | None = None
        self._width: int | None = None  # numbers a row of the features so far
        if isinstance(network, FeatureNetwork):
            self.bind(network)

    def _network_defaults(self) -> tuple[str, str]:
        """Network and layer where the caller names none; layer "" = the network's default."""
        return self.features, ""

    def bind(self, network: FeatureNetwork) -> None:
        """Take features from this network, so that protocol() can say which it was.

        Raises UserError where the network cannot serve this metric."""
        if self.kind == "logits" and not network.has_classifier:
            raise UserError(f"{self._name} needs a classifier, and {network.name} as it stands here has none "
                            f"({network.weights_note}): get weights with one (`ganbench weights list`), or choose "
                            "another metric, e.g. fid or kid")
        object.__setattr__(self, "_network", network)  # not as a submodule: it is shared, and no state of the metric

    def update(self, images: Tensor, real: bool = False) -> None:
        """Add uint8 images (N,C,H,W), real or generated, passing them through the network."""
        self._add(self._see(images), real)

    def _see(self, images: Tensor) -> Tensor:
        """Features of uint8 images (N,C,H,W)."""
        # opened with the first images, so that a metric can be built where no weights are
        if self._network is None:
            self.bind(open_network(self.network_name, [self.layer], dtype=self.precision, compat=self.compat,
                                   device=self.device))
        assert self._network is not None
        return self._of_one_width(self._network(images)[self.layer])

    def update_features(self, features: Tensor, real: bool = False) -> None:
        """Add features (N,d) that were computed elsewhere, with the network this metric is bound to (if any)."""
        self._add(self._checked(features), real)

    def _checked(self, features: Any) -> Tensor:
        """Features that were given, counted as an update. Raises UserError for what are none."""
        if not isinstance(features, Tensor) or features.ndim != 2 or not features.is_floating_point():
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise UserError(f"{self._name}: expected features as a tensor of floats (N,d), and got {shape}")
        self._of_one_width(features)
        self._update_count += 1
        self._computed = None
        return features

    def _of_one_width(self, features: Tensor) -> Tensor:
        """The same features. Raises UserError where they are not as wide as those before."""
        if self._width not in (None, features.shape[1]):
            raise UserError(f"{self._name}: the sets have different features, {self._width} and {features.shape[1]} "
                            "numbers an image: take all of them from one network and layer, and images of one size")
        self._width = features.shape[1]
        return features

    def reset(self) -> None:
        """Forget all sets."""
        super().reset()
        self._width = None

    def update_held_out_features(self, features: Tensor) -> None:
        """Add features (N,d) of real images that were not trained on, for metrics that need such."""
        raise NotImplementedError

    def _add(self, features: Tensor, real: bool) -> None:
        raise NotImplementedError

    def load_real_state(self, state: dict[str, Tensor]) -> None:
        """Replace the reals. Counts as an update."""
        self._update_count += 1
        self._computed = None

    def counts(self) -> tuple[int, int]:
        """(real, generated) images so far."""
        raise NotImplementedError

    @property
    def _name(self) -> str:
        return type(self).__module__.split(".")[-1]

    def protocol(self) -> str:
        """Network, layer and settings; counts of images are part of it."""
        reals, fakes = self.counts()
        return ";".join([self._name, self._where(), f"layer={self.layer}", *self._choices(),
                         *([f"reals={reals}"] if self.needs_reals else []), f"fakes={fakes}"])

    def real_key(self) -> str:
        """All that real_state() depends on, apart from the images."""
        return f"{self._where()};layer={self.layer};states={self.states};seed={self.seed}"

    def _where(self) -> str:
        """The network's own part of the protocol."""
        return self._network.protocol if self._network is not None else f"network={self.network_name}"

    def _choices(self) -> list[str]:
        """This metric's own part of the protocol, e.g. ["ddof=1"]."""
        return []


class StoredFeatures(FeatureMetric):
    """A metric that needs every feature of both sets at once: memory is the features."""

    states = "features"
    kept_states: ClassVar[dict[str, str | None]] = {"real_features": "cat", "fake_features": "cat"}
    real_features: list[Tensor]
    fake_features: list[Tensor]

    def _add(self, features: Tensor, real: bool) -> None:
        (self.real_features if real else self.fake_features).append(features.detach())

    def reals(self) -> Tensor:
        """The real features so far, (N,d). Raises UserError where there are none, or some are not finite."""
        return self._finite_rows(self.real_features, "real")

    def fakes(self) -> Tensor:
        """The generated features so far, (M,d). Raises UserError where there are none, or some are not finite."""
        return self._finite_rows(self.fake_features, "generated")

    def _finite_rows(self, parts: list[Tensor], kind: str) -> Tensor:
        """All rows of one set. Raises UserError where there are none, or some are not finite: it is asked here and not
        with each batch, so that a GPU need not be waited for."""
        found = stacked(parts, f"{self._name}: no {kind} images were given")
        check_finite(found, f"{self._name}, {kind} images")
        return found

    def counts(self) -> tuple[int, int]:
        """(real, generated) images so far."""
        return rows(self.real_features), rows(self.fake_features)

    def real_state(self) -> dict[str, Tensor]:
        """The real features, for the cache."""
        return {"features": self.reals()}

    def load_real_state(self, state: dict[str, Tensor]) -> None:
        """Replace the reals by what `real_state` gave."""
        super().load_real_state(state)
        self.real_features = [state["features"].to(self.device)]


class ThreeSets(StoredFeatures):
    """A metric that also needs features of real images that were not trained on."""

    needs_held_out = True
    kept_states = {**StoredFeatures.kept_states, "held_out_features": "cat"}
    held_out_features: list[Tensor]

    def update_held_out(self, images: Tensor) -> None:
        """Add uint8 images (N,C,H,W) that were not trained on, passing them through the network."""
        self.held_out_features.append(self._see(images).detach())

    def update_held_out_features(self, features: Tensor) -> None:
        """Add held-out rows (N,D) of features that the network has already made."""
        self.held_out_features.append(self._checked(features).detach())

    def held_out(self) -> Tensor:
        """All held-out rows (N,D). Raises UserError where none were given."""
        return self._finite_rows(self.held_out_features, "held-out")

    def _choices(self) -> list[str]:
        return [f"held-out={rows(self.held_out_features)}"]


class StreamedMoments(FeatureMetric):
    """A metric that needs means and covariances alone: memory does not grow with the number of images.

    Beside the moments a random sample of SAMPLE features of each set is kept, for the interval.
    """

    states = "moments"
    kept_states = dict.fromkeys(("real_moments", "real_sample", "fake_moments", "fake_sample"))
    real_moments: list[Tensor]
    fake_moments: list[Tensor]
    real_sample: list[Tensor]
    fake_sample: list[Tensor]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._latest: dict[bool, tuple[Tensor, int]] = {}  # moments as they were left, with their count

    def _add(self, features: Tensor, real: bool) -> None:
        if not len(features):
            return
        parts, kept = (self.real_moments, self.real_sample) if real else (self.fake_moments, self.fake_sample)
        seen = self._seen(parts)
        added = moments.combine([*parts, moments.of_rows(features.detach())])
        self._latest[real] = added, seen + len(features)
        # each row gets a random priority; the rows with the least are a random sample, whatever the batches
        random = Random(derived_seed(self.seed, "real" if real else "fake", seen), features.device)
        priority = random.uniform(len(features)).to(features.dtype)
        sample = least([*kept, torch.cat([priority[:, None], features.detach()], 1)])
        if real:
            self.real_moments, self.real_sample = [added], [sample]
        else:
            self.fake_moments, self.fake_sample = [added], [sample]

    def _seen(self, parts: list[Tensor]) -> int:
        """Samples behind moments. What `_add` has left is known; a GPU is asked for others alone."""
        known = {id(left): count for left, count in self._latest.values()}
        return sum(known[id(part)] if id(part) in known else moments.count(part) for part in parts)

    def gaussian(self, real: bool) -> Gaussian:
        """Mean, covariance and count of one set."""
        parts, kind = (self.real_moments, "real") if real else (self.fake_moments, "generated")
        if not parts:
            raise UserError(f"{self._name}: no {kind} images were given")
        state = moments.combine(parts)
        check_finite(state, f"{self._name}, {kind} images")
        return Gaussian.of_moments(state, self.compat.ddof)

    def sample(self, real: bool) -> Tensor:
        """At most SAMPLE features of one set, (M,d); (0,d) where only statistics are known."""
        kept = self.real_sample if real else self.fake_sample
        if not kept:
            return self.gaussian(real).mean.new_zeros(0, len(self.gaussian(real).mean))
        return least(kept)[:, 1:]

    def counts(self) -> tuple[int, int]:
        """(real, generated) images so far."""
        return (sum(moments.count(p) for p in self.real_moments), sum(moments.count(p) for p in self.fake_moments))

    def real_state(self) -> dict[str, Tensor]:
        """The real moments and the sample, for the cache."""
        return {"moments": moments.combine(self.real_moments), "sample": least(self.real_sample)}

    def load_real_state(self, state: dict[str, Tensor]) -> None:
        """Replace the reals by what `real_state` gave."""
        super().load_real_state(state)
        self.real_moments = [state["moments"].to(self.device)]
        self.real_sample = [state["sample"].to(self.device)]


def stacked(parts: "list[Tensor] | Tensor", complaint: str) -> Tensor:
    """All rows of a list state (a tensor, once torchmetrics has reduced it). Raises UserError where there are none."""
    if isinstance(parts, Tensor):
        return parts
    if not parts:
        raise UserError(complaint)
    return torch.cat(list(parts))


def rows(parts: "list[Tensor] | Tensor") -> int:
    """How many rows a list state has."""
    return len(parts) if isinstance(parts, Tensor) else sum(len(p) for p in parts)


def random_rows(table: Tensor, most: int, seed: int) -> Tensor:
    """`most` random rows, or all where there are no more. Sets are often sorted by class: their beginning is no sample.
    """
    if len(table) <= most:
        return table
    chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))[:most]
    return table[chosen.to(table.device)]


def least(parts: list[Tensor]) -> Tensor:
    """The SAMPLE rows with the least first column."""
    table = torch.cat(list(parts))
    if len(table) <= SAMPLE:
        return table
    return table[table[:, 0].topk(SAMPLE, largest=False).indices]
