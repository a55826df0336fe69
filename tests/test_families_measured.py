"""Every family of the zoo, without being named here, with every measure of a model and every picture."""

import math

import pytest
import torch
from measure_support import noise_store, subject_of

from ganbench.errors import UserError
from ganbench.family import ImageSpec, configure, find_family, frozen_modes
from ganbench.metrics.metric import MetricBase, ModelMetric, Subject
from ganbench.pictures import sheets as pictures
from ganbench.plugins import load_plugin, names
from ganbench.random import Random

SIDE, CLASSES, N = 32, 3, 24
FAMILIES = sorted(names("family"))


@pytest.fixture(params=FAMILIES)
def subject(request):
    torch.manual_seed(0)
    cls = find_family(request.param)
    preset = "smoke" if "smoke" in cls.presets else None
    config, *_ = configure(cls, preset)
    spec = ImageSpec(SIDE, 1, CLASSES)
    try:
        cls.check(config, spec)
    except UserError as error:
        pytest.skip(str(error))
    family = cls(config, spec).eval()
    train, test = (noise_store(30, side=SIDE, seed=seed, classes=CLASSES) for seed in (0, 1))
    return subject_of(family, train, test, n=N)


def squared(a, b):
    return (a.double() - b.double()).square().flatten(1).sum(1)


NEED_NETWORKS = ("class_accuracy", "mode_coverage", "linear_separability_own", "intra_class_fid",
                 "classification_accuracy_score")


def measures_of(subject: Subject) -> list[ModelMetric]:
    """The measures that apply and need neither downloads nor a trained classifier."""
    found = []
    for name in names("metric"):
        cls = load_plugin("metric", name, MetricBase)
        if issubclass(cls, ModelMetric) and name not in NEED_NETWORKS:
            measure = cls(distance=squared) if name == "ppl" else cls()
            if not measure.applies(subject.family):
                found.append(measure)
    return found


def test_measures_that_apply_give_finite_numbers_twice_the_same(subject):
    before = {k: v.clone() for k, v in subject.family.state_dict().items()}
    modes = [m.training for m in subject.family.modules()]
    applied = measures_of(subject)
    assert applied  # at least the pixel-space ones
    for measure in applied:
        scores = measure.measure(subject)
        assert scores and all(math.isfinite(s.value) for s in scores), type(measure).__name__
        assert all(s.ci_low <= s.value <= s.ci_high for s in scores if s.ci_low is not None), type(measure).__name__
        assert len({s.level for s in scores}) == len(scores)
    again = applied[0].measure(subject)
    assert again == applied[0].measure(subject)
    assert modes == [m.training for m in subject.family.modules()]
    after = subject.family.state_dict()
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=0, atol=0, equal_nan=True)


def test_pictures_are_drawn_or_refused_in_one_line(subject):
    family, generator = subject.family, subject.generator
    with frozen_modes(generator):
        family.sample_mode(generator)
        z = family.latents(2, Random(0))
        labels = torch.zeros(2, dtype=torch.int64) if family.needs_labels else None
        reals = torch.from_numpy(subject.reals.images[:9]).float() / 127.5 - 1
        makers = [lambda: pictures.interpolation(family, generator, z, z.flip(0), labels, steps=3),
                  lambda: pictures.interpolation(family, generator, z, z.flip(0), labels, space="w", steps=3),
                  lambda: pictures.class_rows(family, generator, z),
                  lambda: pictures.truncation_sweep(family, generator, z, labels, (1, 0)),
                  lambda: pictures.mixing_sheet(family, generator, z, z, labels),
                  lambda: pictures.noise_variation(family, generator, z, labels, draws=2, for_deviation=2),
                  lambda: pictures.filters(pictures.first_filters(family)),
                  lambda: pictures.guided(family, reals, torch.zeros(9, dtype=torch.int64), channels=1, top=2)]
        for make in makers:
            try:
                picture = make()
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert picture.dtype.name == "uint8" and picture.ndim == 3 and picture.shape[2] == 3
