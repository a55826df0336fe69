"""One pass over the images for all metrics: what is decoded, what is fed, what is said."""

import numpy as np
import pytest
import torch

from ganbench.errors import UserError
from ganbench.metrics import evaluate as evaluation
from ganbench.metrics.evaluate import Report, evaluate
from ganbench.metrics.functional import ms_ssim, sliced_wasserstein_distance
from ganbench.metrics.images.sets import ArraySet, GeneratedSet, Statistics, shuffled
from ganbench.metrics.metric import ImageMetric, ModelMetric, Score


def images(n, seed=0, side=16, channels=3):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 60, (n, channels, side // 4, side // 4)).repeat(4, -1).repeat(4, -2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


def arrays(n_real=20, n_fake=20):
    return ArraySet(images(n_real, 1), "reals"), ArraySet(images(n_fake, 2), "fakes")


def score(names, reals, fakes, **more):
    return evaluate(names, fakes=fakes, reals=reals, side=16, channels=3, **more)


class MeanByte(ImageMetric):
    """A metric that refuses dark images."""

    def __init__(self, seed: int = 0, limit: int = 0):
        super().__init__()
        self.seed, self.limit, self.seen = seed, limit, {True: [], False: []}

    def protocol(self):
        return f"mean_byte;limit={self.limit}"

    def update(self, images, real=False):
        if images.float().mean() < self.limit:
            raise UserError("too dark")
        self.seen[real].append(images)

    def scores(self):
        return [Score(torch.cat(self.seen[False]).double().mean().item(), n_fake=sum(map(len, self.seen[False])))]

    def real_key(self):
        return "mean_byte"

    def real_state(self):
        return {"reals": torch.cat(self.seen[True])}

    def load_real_state(self, state):
        self.seen[True] = [state["reals"]]


@pytest.fixture
def mean_byte(monkeypatch):
    real_find = evaluation.find_metric
    monkeypatch.setattr(evaluation, "find_metric", lambda name: MeanByte if name == "mean_byte" else real_find(name))


def test_values_are_those_of_the_plain_functions_and_images_are_decoded_once():
    reals, fakes = arrays()
    report = Report()
    found = score(["swd", "ms-ssim"], reals, fakes, seed=3, report=report)
    swd = sliced_wasserstein_distance(torch.from_numpy(reals.array), torch.from_numpy(fakes.array), seed=3)
    pairs = torch.from_numpy(fakes.array)
    expected = {("swd", "16"): swd[16], ("swd", "avg"): swd.average,
                ("ms_ssim", ""): ms_ssim(pairs[::2], pairs[1::2]).mean().item()}
    assert {(r.metric, r.score.level): r.score.value for r in found} == pytest.approx(expected, rel=1e-6)
    assert report.decoded == {"real": 20, "fake": 20}
    assert (reals.decoded, fakes.decoded) == (20, 20)
    assert {r.score.n_fake for r in found} == {20}


def test_reals_are_not_touched_where_no_metric_needs_them():
    reals, fakes = arrays()
    score(["ms_ssim"], reals, fakes)
    assert (reals.decoded, fakes.decoded) == (0, 20)
    assert [r.metric for r in score(["ms_ssim"], None, fakes)] == ["ms_ssim"]
    with pytest.raises(UserError, match="--real"):
        score(["swd"], None, fakes)


def test_unequal_counts_are_brought_to_the_common_number_and_said():
    reals, fakes = arrays(30, 20)
    found = score(["swd"], reals, fakes)
    assert {(r.score.n_real, r.score.n_fake) for r in found} == {(20, 20)}
    assert "20 of 30 real" in found[0].score.note
    assert "n=20" in found[0].protocol
    other = score(["swd"], ArraySet(reals.array[:20], "first"), fakes)
    assert found[-1].score.value != other[-1].score.value  # a sample, not the beginning


@pytest.mark.parametrize("n_real, n_fake", [(5, 2000), (2000, 5)])
def test_a_batch_of_which_the_common_sample_takes_nothing_is_passed_over(n_real, n_fake):
    """The larger set's 5 images lie in at most 5 of its 8 batches; the number is the plain function's on these."""
    reals, fakes = images(n_real, 1), images(n_fake, 2)
    chosen = np.sort(shuffled(2000)[:5])
    expected = sliced_wasserstein_distance(torch.from_numpy(reals[chosen] if n_real > 5 else reals),
                                           torch.from_numpy(fakes[chosen] if n_fake > 5 else fakes))
    found = score(["swd"], ArraySet(reals, "reals"), ArraySet(fakes, "fakes"))
    assert {r.score.level: r.score.value for r in found} == pytest.approx(
        {str(level): value for level, value in {**expected, "avg": expected.average}.items()})


def test_batches_do_not_matter():
    reals, fakes = arrays(19, 19)
    one = score(["swd", "ms_ssim"], reals, fakes)
    generated = GeneratedSet(lambda size: iter(torch.from_numpy(fakes.array).split(3)), n=19, side=16, channels=3)
    other = score(["swd", "ms_ssim"], reals, generated)
    assert [r.score.value for r in one] == pytest.approx([r.score.value for r in other], rel=1e-12)


def test_keep_going(mean_byte):
    reals, fakes = arrays()
    with pytest.raises(UserError, match="too dark"):
        score(["mean_byte", "ms_ssim"], reals, fakes, options={"mean_byte": {"limit": 250}})
    report = Report()
    found = score(["mean_byte", "nonsense", "ms_ssim"], reals, fakes, options={"mean_byte": {"limit": 250}},
                  keep_going=True,
                  report=report)
    assert [r.metric for r in found] == ["ms_ssim"]
    assert report.failures["mean_byte"] == "too dark"
    assert "unknown metric" in report.failures["nonsense"]


def test_options_reach_those_who_take_them(mean_byte):
    reals, fakes = arrays()
    found = score(["mean_byte", "ms_ssim"], reals, fakes, options={"limit": 7, "unheard_of": 1})
    assert found[0].protocol == "mean_byte;limit=7"
    with pytest.raises(UserError, match="no setting 'limt'"):
        score(["mean_byte"], reals, fakes, options={"mean_byte": {"limt": 7}})


def test_a_model_metric_without_a_model_says_so(monkeypatch):
    class Measure(ModelMetric):
        pass
    monkeypatch.setattr(evaluation, "find_metric", lambda name: Measure)
    with pytest.raises(UserError, match="measures a trained model"):
        score(["measure"], *arrays())


def test_statistics_stand_for_reals_only_where_a_metric_takes_them(mean_byte):
    _, fakes = arrays()
    reals = Statistics(np.zeros(2), np.eye(2), 5, "stats.npz")
    with pytest.raises(UserError, match=r"swd needs real images, and stats\.npz holds statistics only"):
        score(["swd"], reals, fakes)
    taken = []
    MeanByte.load_reference, MeanByte.takes_statistics = lambda self, *given: taken.append(given), True
    try:
        assert len(score(["mean_byte"], reals, fakes)) == 1
    finally:
        del MeanByte.load_reference, MeanByte.takes_statistics
    assert taken[0][0] is reals.mean and taken[0][2] == 5


def test_real_images_mirrored_as_in_training():
    reals, fakes = arrays()
    reals.mirror = True
    found = score(["swd"], reals, fakes, seed=1)
    assert "mirror=1" in found[0].protocol
    reals.mirror = False
    plain = score(["swd"], reals, fakes, seed=1)
    assert "mirror=0" in plain[0].protocol and plain[0].score.value != found[0].score.value


def test_every_metric_sees_the_mirrored_reals_and_says_so():
    """As the authors' codes do it: each real image is mirrored with probability 1/2, the generated ones never."""
    seen = {True: [], False: []}

    class Watching(MeanByte):
        def update(self, images, real=False):
            seen[real].append(images)
            super().update(images, real)

    reals, fakes = arrays(64, 64)
    reals.mirror = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "find_metric", lambda name: Watching)
        found = score(["mean_byte"], reals, fakes, seed=5)
    assert found[0].protocol == "mean_byte;limit=0;mirror=1"
    fed, plain = torch.cat(seen[True]), torch.from_numpy(reals.array)
    straight, turned = (fed == plain).flatten(1).all(1), (fed == plain.flip(3)).flatten(1).all(1)
    assert (straight | turned).all() and 20 <= turned.sum() <= 44
    assert torch.equal(torch.cat(seen[False]), torch.from_numpy(fakes.array))
    other = ArraySet(fed.numpy(), "as fed")  # the value is that of the images as they were fed
    assert score(["swd"], reals, fakes, seed=5)[-1].score.value == score(["swd"], other, fakes, seed=5)[-1].score.value


@pytest.mark.parametrize(("name", "setting", "value", "says"), [
    ("prdc", "k", "abc", r"--set prdc\.k=abc is refused: input should be a valid integer"),
    ("prdc", "k", 2.5, r"--set prdc\.k=2\.5 is refused"),
    ("prdc", "k", True, r"--set prdc\.k=true is refused"),
    ("prdc", "strict", "perhaps", r"--set prdc\.strict=perhaps is refused"),
    ("kid", "subsets", 0, r"--set kid\.subsets=0 is refused"),
    ("kid", "subset_size", [1], r"--set kid\.subset_size=\[1\] is refused"),
    ("cmmd", "sigma", -1, r"--set cmmd\.sigma=-1 is refused"),
    ("swd", "patches", None, r"--set swd\.patches=null is refused"),
    ("fid", "layer", 3, r"--set fid\.layer=3 is refused"),
    ("ppl", "path", "round", r"--set ppl\.path=round is refused"),
    ("swd", "seed", -1, r"--set swd\.seed=-1 is refused: input should be greater than or equal to 0"),
    ("fid", "seed", 2**63, r"--set fid\.seed=9223372036854775808 is refused"),
    ("inception_score", "seed", -1, r"--set inception_score\.seed=-1 is refused"),
    ("inception_score", "shuffle_seed", 2**32, r"--set inception_score\.shuffle_seed=4294967296 is refused"),
    ("kid", "subset_seed", -1, r"--set kid\.subset_seed=-1 is refused"),
])
def test_settings_of_a_wrong_type_are_one_line(name, setting, value, says):
    from ganbench.metrics.evaluate import check
    with pytest.raises(UserError, match=says) as caught:
        check([name], {name: {setting: value}})
    assert "\n" not in str(caught.value)


def test_settings_that_nobody_takes_are_refused_by_name():
    from ganbench.metrics.evaluate import check
    with pytest.raises(UserError, match=r"--set kid\.subsets is for kid, which is not among the metrics"):
        check(["swd"], {"kid": {"subsets": 5}})
    with pytest.raises(UserError, match=r"swd, kid: no setting 'subsetz'\. Did you mean 'subsets'"):
        check(["swd", "kid"], {"subsetz": 5})
    check(["swd", "prdc"], {"k": 5, "layer": None, "compat": "clean-fid", "network": "random-vgg16"})


# --- the cache of reals -----------------------------------------------------------------------------------------------

@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GANBENCH_CACHE", str(tmp_path / "cache"))


class FromFiles(ArraySet):
    at_hand = False  # as if they had to be decoded


def from_files():
    return FromFiles(images(20, 1), "reals"), FromFiles(images(20, 2), "fakes")


def cached_run(reals, fakes, names=("swd", "mean_byte")):
    report = Report()
    before = reals.decoded
    found = score(list(names), reals, fakes, use_cache=True, report=report)
    return [r.score.value for r in found], report.from_cache, reals.decoded - before


def test_second_call_is_served_from_the_cache(mean_byte, own_cache):
    reals, fakes = from_files()
    first, served, decoded = cached_run(reals, fakes)
    assert (served, decoded) == ([], 20)
    second, served, decoded = cached_run(FromFiles(reals.array.copy(), "the same under another name"), fakes)
    assert (served, decoded) == (["swd", "mean_byte"], 0)
    assert first == second


def test_one_changed_pixel_misses(mean_byte, own_cache):
    reals, fakes = from_files()
    cached_run(reals, fakes)
    changed = reals.array.copy()
    changed[7, 1, 3, 3] ^= 1
    _, served, decoded = cached_run(FromFiles(changed, "reals"), fakes)
    assert (served, decoded) == ([], 20)


def test_other_counts_of_fakes_take_other_reals(mean_byte, own_cache):
    reals, fakes = from_files()
    cached_run(reals, fakes)
    found, served, _ = cached_run(reals, FromFiles(fakes.array[:10], "fewer"), ["swd"])
    assert served == []
    assert found == [r.score.value for r in score(["swd"], reals, FromFiles(fakes.array[:10], "fewer"))]


def test_a_damaged_entry_is_made_again(mean_byte, own_cache):
    from ganbench.metrics import cache
    reals, fakes = from_files()
    first, _, _ = cached_run(reals, fakes)
    for entry in cache.entries():
        (cache.cache_folder() / f"{entry.key}.safetensors").write_bytes(b"half a fi")
    again, served, _ = cached_run(reals, fakes)
    assert (served, again) == ([], first)
    assert len(cache.entries()) == 2 and all(e.what.endswith("of reals") for e in cache.entries())
    assert cache.clear()[0] == 2 and cache.entries() == []


def test_pixels_that_are_at_hand_are_not_kept_twice(own_cache):
    from ganbench.metrics import cache
    reals, fakes = arrays()
    cached_run(reals, fakes, ["swd"])
    assert cache.entries() == []
