"""Randomness is a function of (seed, purpose, position)."""

import itertools

import numpy as np
import torch

from simclr_cli.core.seeds import Purpose, create_numpy_generator, create_torch_generator, derive_seed


def test_same_arguments_same_seed_whatever_was_drawn_before() -> None:
    first = derive_seed(3, Purpose.VIEWS, 17)
    np.random.default_rng().random(5)
    torch.rand(5)
    assert derive_seed(3, Purpose.VIEWS, 17) == first


def test_seeds_purposes_and_positions_all_give_different_streams() -> None:
    streams = {
        derive_seed(seed, purpose, position)
        for seed, purpose, position in itertools.product(range(20), Purpose, range(50))
    }
    assert len(streams) == 20 * len(Purpose) * 50


def test_a_position_of_two_numbers_is_not_that_of_their_order_reversed() -> None:
    assert derive_seed(0, Purpose.ORDER, 1, 2) != derive_seed(0, Purpose.ORDER, 2, 1)


def test_seeds_fit_63_bits() -> None:
    seeds = [derive_seed(seed, Purpose.STEP, 5) for seed in (0, 1, 2**31, 2**40)]
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_values_of_purposes_are_part_of_the_run_format() -> None:
    """A resumed run must draw the same numbers."""
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "ENCODER": 1, "HEAD": 2, "ORDER": 3, "VIEWS": 4, "STEP": 5, "SPLIT": 6,
        "BOOTSTRAP": 7, "LABELS": 8, "HELD_OUT": 9, "VALIDATION": 10, "CLASSIFIER": 11, "AUGMENT": 12, "SIMILARITY": 13,
        "CLUSTERS": 14, "ANCHORS": 15,
    }  # fmt: skip


def test_torch_generators_repeat_and_differ() -> None:
    def draw(*position: int) -> torch.Tensor:
        return torch.rand(8, generator=create_torch_generator(1, Purpose.VIEWS, *position))

    assert torch.equal(draw(4), draw(4))
    assert not torch.equal(draw(4), draw(5))
    assert create_torch_generator(1, Purpose.VIEWS, 4).device.type == "cpu"


def test_numpy_generators_repeat_and_differ() -> None:
    def draw(*position: int) -> list[float]:
        return create_numpy_generator(1, Purpose.ORDER, *position).random(8).tolist()

    assert draw(4) == draw(4) != draw(5)


def test_global_state_of_torch_does_not_change() -> None:
    before = torch.get_rng_state()
    create_torch_generator(1, Purpose.VIEWS, 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_neighboring_seeds_are_independent() -> None:
    """Streams of (seed, step) and (seed + 1, step) must look independent, not shifted."""
    streams = torch.stack(
        [torch.rand(4000, generator=create_torch_generator(seed, Purpose.VIEWS, 0)) for seed in range(6)]
    )
    assert (torch.corrcoef(streams) - torch.eye(6)).abs().max() < 5 / 4000**0.5


def test_large_seeds_and_missing_positions_do_not_collide() -> None:
    assert derive_seed(0, Purpose.SPLIT) != derive_seed(0, Purpose.SPLIT, 0)
    assert derive_seed(2**32, Purpose.ORDER) != derive_seed(0, Purpose.ENCODER, 3)
