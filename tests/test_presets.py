"""What presets promise: a length named in a preset's text is the length it trains."""

import re

import pytest

from ganbench.commands.show import differences
from ganbench.family import configure, find_family
from ganbench.plugins import names
from ganbench.training import session
from ganbench.training.document import resolve
from ganbench.training.run_options import RunOptions

LENGTHS = re.compile(r"(?P<epochs>[\d,]+) epochs? of (?P<images>[\d,]+) images|(?P<updates>[\d,]+) generator updates"
                     r"|(?P<kimg>[\d,]+) kimg")


def number(text: str) -> int:
    return int(text.replace(",", ""))


def images_a_step(config) -> int:
    """Real images that one generator update and its critic updates take, by the settings' names."""
    settings = config.model_dump()
    takes = settings.get("n_critic", 1) * (2 if settings.get("order") == "alternate" else 1)
    return settings["batch"] * takes


def promised():
    for name in names("family"):
        family = find_family(name)
        for preset, chosen in family.presets.items():
            for length in LENGTHS.finditer(chosen.about):
                if chosen.about[:length.start()].endswith("after "):  # "after 60 kimg" is a way-mark, not the end
                    continue
                yield pytest.param(family, preset, length.groupdict(), id=f"{name}-{preset}")


@pytest.mark.parametrize(("family", "preset", "length"), promised())
def test_a_length_in_the_text_is_the_length_of_training(family, preset, length):
    config, chosen, _ = configure(family, preset)
    images = 1000 * (chosen.kimg or family.kimg)
    if length["kimg"]:
        assert images == 1000 * number(length["kimg"])
    elif length["updates"]:
        assert images == number(length["updates"]) * images_a_step(config)
    else:
        assert images == pytest.approx(number(length["epochs"]) * number(length["images"]), rel=1e-4)


@pytest.mark.parametrize(("name", "preset", "steps"), [
    ("wgan_gp", "paper", 200_000), ("wgan_gp", "resnet", 200_000), ("wgan_gp", "mnist", 200_000),
    ("wgan_gp", "resnet32", 100_000), ("mbd", "mbd", 100_000), ("began", "paper", 500_000),
    ("wgan", "alt:collections", 100_000)])
def test_results_quoted_are_of_as_many_steps(name, preset, steps):
    """The lengths of the publications, written here once more."""
    family = find_family(name)
    config, chosen, _ = configure(family, preset)
    assert 1000 * (chosen.kimg or family.kimg) / images_a_step(config) == steps


def test_a_rate_that_falls_over_epochs_has_fallen_at_the_end():
    family = find_family("cgan")
    config, chosen, _ = configure(family, "alt:newmu")
    assert 1000 * chosen.kimg / 60_000 == config.constant_epochs + config.falling_epochs


def of_one_data_set():
    """Presets for data that keep no test images apart: by their names, and R3GAN's table 2, which is of FFHQ-256."""
    for name in names("family"):
        for preset in find_family(name).presets:
            if re.search("ffhq|celebahq|lsun", preset) or (name == "r3gan" and preset.startswith("config-")):
                yield name, preset


@pytest.mark.parametrize(("name", "preset"), of_one_data_set())
def test_presets_for_a_data_set_train_on_all_of_it_as_their_publications_do(name, preset):
    assert find_family(name).presets[preset].split == "all"


def test_r3gan_mirrors_where_the_published_commands_do():
    """README of brownvc/R3GAN: all five of its commands have --mirror=1."""
    mirrored = {name for name, preset in find_family("r3gan").presets.items() if preset.mirror}
    assert mirrored == {"paper-cifar10", "paper-ffhq-64", "paper-ffhq-256", "paper-imagenet-32", "paper-imagenet-64"}
    assert ("mirror", "True", "as the data", "reals are mirrored") in differences("r3gan", "paper-cifar10", "paper")


def test_a_preset_says_whether_reals_are_mirrored_where_nothing_else_is_asked(tmp_path):
    def resolved(**options):
        return resolve(RunOptions("r3gan", dataset="digits", side=32, results=None, metrics=[], device="cpu",
                                  quiet=True, **options))

    small = {"fmap_base": "64", "fmap_max": "16", "batch": "8"}
    asked = resolved(preset="paper-cifar10", overrides=small)
    assert asked.document["dataset"]["mirror"] is True and "mirror" not in asked.document["flags"]
    trainer, _ = session._build(asked, tmp_path)
    assert trainer.stream.mirror is True
    against = resolved(preset="paper-cifar10", overrides=small, mirror=False)
    assert against.document["dataset"]["mirror"] is False
    assert against.document["config_hash"] != asked.document["config_hash"]
    assert resolved(preset="smoke").document["dataset"]["mirror"] is False  # as the data
