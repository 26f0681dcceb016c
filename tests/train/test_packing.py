import numpy as np
import pytest

from gptcli.train.packing import IGNORE_INDEX, Ids, Mixture, PackedTexts

EOS, LENGTH = 0, 16


def documents(count: int, longest: int) -> list[Ids]:
    """Document n is n+1 repeated, so that ids tell where they come from."""
    lengths = np.random.default_rng(0).integers(1, longest, count)
    return [np.full(n, i + 1, np.int32) for i, n in enumerate(lengths)]


def rows_of(packed: PackedTexts, count: int) -> list[tuple[Ids, Ids]]:
    return [packed.row(i) for i in range(count)]


@pytest.mark.parametrize("longest", [5, 16, 17, 60])
def test_an_epoch_teaches_every_token_and_every_end_once(longest: int) -> None:
    texts = documents(40, longest)
    packed = PackedTexts(texts, EOS, LENGTH, "key")
    rows = rows_of(packed, packed.epoch_rows(0))
    targets = np.concatenate([targets for _, targets in rows])
    for number, text in enumerate(texts):
        assert (targets == number + 1).sum() == len(text)
    # an end is lost only where the text before it fills its row to the last place
    full = sum(targets[-1] not in {EOS, IGNORE_INDEX} for _, targets in rows)
    assert len(texts) - full <= (targets == EOS).sum() <= len(texts)


@pytest.mark.parametrize("longest", [5, 17, 60])
def test_each_target_is_the_next_id(longest: int) -> None:
    packed = PackedTexts(documents(40, longest), EOS, LENGTH, "key")
    for ids, targets in rows_of(packed, 60):
        real = targets != IGNORE_INDEX
        assert len(ids) == len(targets) == LENGTH
        assert (targets[:-1][real[:-1]] == ids[1:][real[:-1]]).all()
        assert real[0]
        assert (np.diff(real.astype(int)) <= 0).all()  # padding is at the end only


def test_no_text_is_taught_to_follow_another_without_an_end() -> None:
    packed = PackedTexts(documents(40, 60), EOS, LENGTH, "key")
    for ids, targets in rows_of(packed, 60):
        changes = ids[1:] != ids[:-1]
        assert ((ids[1:] == EOS) | (ids[:-1] == EOS) | ~changes).all()
        assert ((targets != EOS) | (ids != EOS)).all()  # nor is an end taught to follow an end


def test_a_row_depends_on_key_and_index_alone() -> None:
    one, other = (PackedTexts(documents(40, 20), EOS, LENGTH, "key") for _ in range(2))
    forwards = [one.row(i) for i in range(90)]
    backwards = [other.row(i) for i in reversed(range(90))][::-1]
    for left, right in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(left, right)
    third = PackedTexts(documents(40, 20), EOS, LENGTH, "another key")
    assert any((third.row(i)[0] != forwards[i][0]).any() for i in range(10))


def test_epochs_differ() -> None:
    packed = PackedTexts(documents(40, 20), EOS, LENGTH, "key")
    first = packed.epoch_rows(0)
    assert any((packed.row(i)[0] != packed.row(first + i)[0]).any() for i in range(10))


def test_rows_are_well_filled() -> None:
    packed = PackedTexts(documents(400, 12), EOS, LENGTH, "key")
    targets = np.concatenate([packed.row(i)[1] for i in range(packed.epoch_rows(0))])
    assert (targets == IGNORE_INDEX).mean() < 0.05


def test_shares_follow_sizes_and_weights() -> None:
    small, large = (PackedTexts(documents(n, 12), EOS, LENGTH, str(n)) for n in (50, 200))
    plain = Mixture([small, large], [(1, 1), (1, 1)], 4000, 0).counts
    expected = small.tokens / (small.tokens + large.tokens)
    assert plain[0] / 4000 == pytest.approx(expected, abs=0.03)
    assert Mixture([small, large], [(0, 0), (1, 1)], 100, 0).counts == [0, 100]


def test_weights_change_from_start_to_end() -> None:
    ones = PackedTexts([np.full(9, 1, np.int32)], EOS, 8, "a")
    twos = PackedTexts([np.full(9, 2, np.int32)], EOS, 8, "b")
    mixture = Mixture([ones, twos], [(1, 0), (0, 1)], 400, 3)
    ids, _ = mixture.batch(0, 400)
    shares = [(part == 1).any(axis=1).mean() for part in np.array_split(ids, 4)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.75
    assert shares[-1] < 0.25


def test_a_batch_depends_on_its_place_alone() -> None:
    def mixture() -> Mixture:
        sources = [PackedTexts(documents(n, 20), EOS, LENGTH, str(n)) for n in (30, 60)]
        return Mixture(sources, [(1, 0.5), (1, 1)], 200, 7)

    whole = mixture().batch(0, 200)
    part = mixture().batch(120, 40)
    np.testing.assert_array_equal(whole[0][120:160], part[0])
    np.testing.assert_array_equal(whole[1][120:160], part[1])
