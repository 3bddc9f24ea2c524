"""Secure aggregation: exact sums, dropouts at every step, and what a hostile centre or site cannot do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.envelope.keys import SecretKey
from privacy.secagg import (
    Advert,
    Bundle,
    Layout,
    Member,
    MemoryGuard,
    Quantizer,
    Release,
    Session,
    Survivors,
    Tally,
    shamir,
    threshold_of,
)
from privacy.secagg.ring import add_mask
from protocol.errors import ConflictError, CorsiaError, InputError, IntegrityError, StudyRefused, UnavailableError

SIZE = 1000
KEYS = {f"site-{i:02d}": SecretKey.generate() for i in range(8)}


def session(n: int = 5, **changes: object) -> Session:
    made = {
        "study": "5" * 64, "run": "r", "round": 1, "attempt": 0,
        "roster": {site: key.public.fingerprint for site, key in list(KEYS.items())[:n]},
    }  # fmt: skip
    return Session(**(made | changes))  # type: ignore[arg-type]


def vectors(names: object, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {site: draw.integers(0, 2**64, SIZE, dtype=np.uint64) for site in names}  # type: ignore[attr-defined]


class Round:
    """An honest round; each step may lose sites."""

    def __init__(self, made: Session, guards: Mapping[str, MemoryGuard] | None = None) -> None:
        self.session = made
        guards = guards or {site: MemoryGuard() for site in made.roster}
        self.members = {site: Member(made, site, KEYS[site], guards[site]) for site in made.roster}
        self.tally = Tally(made, SIZE)

    def advertise(self, lost: frozenset[str] = frozenset()) -> list[Advert]:
        for site, member in self.members.items():
            if site not in lost:
                self.tally.take_advert(Advert.from_bytes(member.advertise().to_bytes()))
        return self.tally.close_adverts()

    def share(self, adverts: list[Advert], lost: frozenset[str] = frozenset()) -> list[Bundle]:
        for advert in adverts:
            if advert.site not in lost:
                made = self.members[advert.site].share(adverts)
                self.tally.take_bundle(Bundle.from_bytes(made.to_bytes()))
        return self.tally.close_bundles()

    def mask(self, bundles: list[Bundle], plain: Mapping[str, np.ndarray], lost: frozenset[str] = frozenset()) -> None:
        for bundle in bundles:
            masked = self.members[bundle.site].mask(bundles, plain[bundle.site].copy())
            if bundle.site not in lost:
                self.tally.take_masked(bundle.site, masked)

    def unmask(
        self, lost_signing: frozenset[str] = frozenset(), lost_release: frozenset[str] = frozenset()
    ) -> np.ndarray:
        survivors = self.tally.survivors()
        for site in survivors:
            if site not in lost_signing:
                self.tally.take_word(Survivors.from_bytes(self.members[site].sign(survivors).to_bytes()))
        for site in self.tally.words:
            if site not in lost_release:
                made = self.members[site].release(self.tally.words.values())
                self.tally.take_release(Release.from_bytes(made.to_bytes()))
        return self.tally.total()


def total_of(plain: Mapping[str, np.ndarray], sites: object) -> np.ndarray:
    made = np.zeros(SIZE, dtype=np.uint64)
    for site in sites:  # type: ignore[attr-defined]
        made += plain[site]
    return made


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_the_sum_is_exact(n: int) -> None:
    made = Round(session(n))
    plain = vectors(made.session.roster)
    made.mask(made.share(made.advertise()), plain)
    assert np.array_equal(made.unmask(), total_of(plain, plain))


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "sign", "release"])
def test_a_dropout_at_any_step_is_survived(step: str) -> None:
    gone = frozenset({"site-01", "site-05"})
    lost = {name: gone if name == step else frozenset() for name in ("advertise", "share", "mask", "sign", "release")}
    made = Round(session(8))
    plain = vectors(made.session.roster)
    made.mask(made.share(made.advertise(lost["advertise"]), lost["share"]), plain, lost["mask"])
    counted = set(plain) - (gone if step in ("advertise", "share", "mask") else set())
    assert np.array_equal(made.unmask(lost["sign"], lost["release"]), total_of(plain, counted))


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "sign", "release"])
def test_below_the_threshold_nothing_is_revealed(step: str) -> None:
    gone = frozenset({"site-01", "site-05", "site-06"})  # of 8, the threshold is 6
    lost = {name: gone if name == step else frozenset() for name in ("advertise", "share", "mask", "sign", "release")}
    made = Round(session(8))
    plain = vectors(made.session.roster)

    def whole_round() -> None:
        made.mask(made.share(made.advertise(lost["advertise"]), lost["share"]), plain, lost["mask"])
        made.unmask(lost["sign"], lost["release"])

    with pytest.raises(CorsiaError) as stopped:
        whole_round()
    assert stopped.value.code in ("unavailable.survivors", "masks.replay")
    assert not any(np.array_equal(made.tally._sum, v) for v in plain.values())


def test_a_masked_vector_says_nothing_of_the_plain_one() -> None:
    made = Round(session(3))
    plain = {site: np.zeros(SIZE, dtype=np.uint64) for site in made.session.roster}
    bundles = made.share(made.advertise())
    masked = [made.members[site].mask(bundles, plain[site].copy()) for site in plain]
    for vector in masked:
        bits = np.unpackbits(vector.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 0.01
    assert len({v.tobytes() for v in masked}) == 3


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 8), st.randoms(use_true_random=False))
def test_any_loss_pattern_gives_the_exact_sum_or_nothing(n: int, draw) -> None:  # type: ignore[no-untyped-def]
    made = Round(session(n))
    plain = vectors(made.session.roster, draw.randrange(1000))
    lost = [frozenset(s for s in plain if draw.random() < 0.12) for _ in range(5)]
    try:
        made.mask(made.share(made.advertise(lost[0]), lost[1]), plain, lost[2])
        got = made.unmask(lost[3], lost[4])
    except CorsiaError as error:
        assert error.code in ("unavailable.survivors", "masks.replay")  # noqa: PT017
    else:
        assert len(made.tally.survivors()) >= threshold_of(n)
        assert np.array_equal(got, total_of(plain, made.tally.survivors()))


# -- a hostile centre


def test_a_swapped_key_is_refused() -> None:
    made = Round(session())
    adverts = made.advertise()
    forged = [
        replace(a, ephemeral=SecretKey.generate().public.to_bytes()) if a.site == "site-01" else a for a in adverts
    ]
    with pytest.raises(IntegrityError) as refused:
        made.members["site-00"].share(forged)
    assert refused.value.code == "masks.signature"


def test_an_impostor_with_a_key_of_its_own_is_refused() -> None:
    """The centre's CA can make certificates; the roster in the signed study names identities."""
    made = Round(session())
    adverts = made.advertise()
    false = SecretKey.generate()
    advert = replace(adverts[1], identity=false.public.to_bytes())
    advert = replace(advert, signature=false.sign(b"corsia/v1/masks", advert.signed(made.session)))
    with pytest.raises(IntegrityError):
        made.members["site-00"].share([adverts[0], advert, *adverts[2:]])
    with pytest.raises(IntegrityError):
        Tally(made.session, SIZE).take_advert(advert)


def test_a_sybil_roster_is_refused() -> None:
    one = KEYS["site-00"].public.fingerprint
    with pytest.raises(InputError):
        session(3, roster={"a": one, "b": one, "c": one})
    with pytest.raises(StudyRefused):
        Member(session(3), "site-00", SecretKey.generate(), MemoryGuard())
    made = Round(session(4))
    adverts = made.advertise()
    with pytest.raises(IntegrityError):
        made.members["site-00"].share([*adverts, replace(adverts[1], site="site-07")])
    with pytest.raises(IntegrityError):
        made.members["site-01"].share([*adverts, adverts[0]])


def test_too_small_a_set_is_refused_by_the_site_itself() -> None:
    made = Round(session(8))
    adverts = made.advertise()
    with pytest.raises(UnavailableError):
        made.members["site-00"].share(adverts[:5])


def test_a_second_survivor_set_is_refused() -> None:
    made = Round(session(5))
    plain = vectors(made.session.roster)
    made.mask(made.share(made.advertise()), plain)
    member = made.members["site-00"]
    names = made.tally.survivors()
    first = member.sign(names)
    assert member.sign(names) == first, "the same question has the same answer"
    with pytest.raises(IntegrityError) as refused:
        member.sign(names[:4])
    assert refused.value.code == "masks.replay"


def test_a_replayed_round_with_a_smaller_set_reveals_no_single_update() -> None:
    guards = {site: MemoryGuard() for site in session(5).roster}
    first = Round(session(5), guards)
    plain = vectors(first.session.roster)
    first.mask(first.share(first.advertise()), plain)
    first.unmask()
    again = Round(session(5, attempt=1), guards)
    again.mask(again.share(again.advertise()), plain, frozenset({"site-04"}))
    with pytest.raises(ConflictError) as refused:
        again.unmask()
    assert refused.value.code == "conflict.round"
    later = Round(session(5, round=2), guards)
    later.mask(later.share(later.advertise()), plain)
    assert np.array_equal(later.unmask(), total_of(plain, plain))


def test_words_of_too_few_or_foreign_survivors_release_nothing() -> None:
    made = Round(session(5))
    plain = vectors(made.session.roster)
    made.mask(made.share(made.advertise()), plain)
    names = made.tally.survivors()
    words = {site: made.members[site].sign(names) for site in names}
    with pytest.raises(IntegrityError):
        made.members["site-00"].release(list(words.values())[:3])
    forged = replace(words["site-02"], site="site-03")
    with pytest.raises(IntegrityError):
        made.members["site-01"].release([*list(words.values())[:3], forged])


def test_messages_of_another_attempt_are_of_no_use() -> None:
    first, second = Round(session(5)), Round(session(5, attempt=1))
    old = first.advertise()
    second.advertise()
    with pytest.raises(IntegrityError):
        second.members["site-00"].share([*old])


def test_a_dropped_site_that_comes_late_is_not_added() -> None:
    made = Round(session(8))
    plain = vectors(made.session.roster)
    bundles = made.share(made.advertise())
    made.mask(bundles, plain, frozenset({"site-03"}))
    assert "site-03" not in made.tally.survivors()
    late = plain["site-03"].copy()
    with pytest.raises(IntegrityError):
        made.tally.take_masked("site-03", late)
    assert np.array_equal(made.unmask(), total_of(plain, set(plain) - {"site-03"}))


def test_steps_out_of_order_are_refused() -> None:
    made = Round(session(4))
    member = made.members["site-00"]
    with pytest.raises(IntegrityError):
        member.mask([], np.zeros(SIZE, dtype=np.uint64))
    member.advertise()
    with pytest.raises(IntegrityError):
        member.advertise()
    with pytest.raises(IntegrityError):
        member.release([])


# -- a hostile site


def test_a_false_share_is_found_and_its_sender_left_out() -> None:
    made = Round(session(8))
    plain = vectors(made.session.roster)
    made.mask(made.share(made.advertise()), plain)
    names = made.tally.survivors()
    for site in names:
        made.tally.take_word(made.members[site].sign(names))
    for site in names:
        release = made.members[site].release(made.tally.words.values())
        if site == "site-02":
            spoilt = dict(release.self_masks) | {"site-04": bytes(shamir.SHARE_BYTES)}
            with pytest.raises(IntegrityError) as refused:
                made.tally.take_release(replace(release, self_masks=spoilt))
            assert refused.value.code == "masks.share"
        else:
            made.tally.take_release(release)
    assert np.array_equal(made.tally.total(), total_of(plain, plain))


@pytest.mark.parametrize(
    "vector", [np.zeros(SIZE - 1, np.uint64), np.zeros(SIZE, np.int64), np.zeros((1, SIZE), np.uint64)]
)
def test_a_vector_of_another_shape_is_refused(vector: np.ndarray) -> None:
    made = Round(session(3))
    made.share(made.advertise())
    with pytest.raises(InputError):
        made.tally.take_masked("site-00", vector)


def test_a_bundle_that_skips_a_peer_is_left_out() -> None:
    made = Round(session(8))
    adverts = made.advertise()
    bundle = made.members["site-00"].share(adverts)
    less = replace(bundle, sealed={k: v for k, v in bundle.sealed.items() if k != "site-04"})
    less = replace(less, signature=KEYS["site-00"].sign(b"corsia/v1/masks", less.signed(made.session)))
    with pytest.raises(IntegrityError):
        made.tally.take_bundle(less)


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"[" * 100_000, b'{"site":1}', b"\xff"])
@pytest.mark.parametrize("kind", [Advert, Bundle, Survivors, Release])
def test_bytes_that_are_no_message_are_refused(kind: type[Advert], raw: bytes) -> None:
    with pytest.raises(InputError):
        kind.from_bytes(raw)


# -- numbers


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 100_000), st.floats(1e-3, 1e4), st.integers(0, 1000))
def test_the_weighted_mean_is_that_of_plaintext(sites: int, heaviest: int, bound: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    q = Quantizer(bound=bound, max_weight=heaviest, sites=sites)
    weights = draw.integers(1, heaviest + 1, sites)
    updates = [(draw.uniform(-1, 1, 50) * bound).astype(np.float32) for _ in range(sites)]
    updates = [np.clip(u, -bound, bound).astype(np.float64) for u in updates]
    total = np.zeros(50, dtype=np.uint64)
    for update, weight in zip(updates, weights, strict=True):
        total += q.encode(update, int(weight))
    exact = sum(u * w for u, w in zip(updates, weights, strict=True))
    got = q.decode(total)
    assert float(np.abs(got - exact).max()) <= q.error * 1.000001 + 1e-12 * float(np.abs(exact).max())
    norm = float(np.linalg.norm(exact))
    if norm > 1e-3 * bound:
        assert float(np.linalg.norm(got - exact)) / norm <= 1e-6


@pytest.mark.parametrize(
    ("values", "weight"), [([np.nan], 1), ([np.inf], 1), ([2.1], 1), ([1.0], 0), ([1.0], 11), ([1.0], -1)]
)
def test_values_and_weights_beyond_the_bounds_are_refused(values: list[float], weight: int) -> None:
    with pytest.raises(InputError):
        Quantizer(bound=2.0, max_weight=10, sites=3).encode(np.array(values), weight)


def test_bounds_that_leave_no_bits_are_refused() -> None:
    with pytest.raises(InputError):
        Quantizer(bound=1e12, max_weight=10**9, sites=10)


def test_arrays_go_into_one_vector_and_back() -> None:
    layout = Layout(shapes={"b": (2, 3), "a": (), "c": (0,)})
    arrays = {"a": np.array(4.0), "b": np.arange(6.0).reshape(2, 3), "c": np.zeros(0)}
    back = layout.split(layout.join(arrays))
    assert all(np.array_equal(back[name], arrays[name]) for name in arrays)
    with pytest.raises(InputError):
        layout.join({"a": np.array(4.0)})


def test_a_mask_comes_off_as_it_went_on() -> None:
    plain = np.arange(300_000, dtype=np.uint64)
    masked = plain.copy()
    add_mask(masked, bytes(range(32)))
    assert not np.array_equal(masked, plain)
    add_mask(masked, bytes(range(32)), subtract=True)
    assert np.array_equal(masked, plain)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret_and_fewer_do_not(secret: bytes, n: int, draw) -> None:  # type: ignore[no-untyped-def]
    threshold = draw.randint(1, n)
    shares = shamir.split(secret, threshold, list(range(1, n + 1)))
    chosen = draw.sample(sorted(shares), threshold)
    assert shamir.combine({p: shares[p] for p in chosen}) == secret
    if threshold > 1:
        try:
            assert shamir.combine({p: shares[p] for p in chosen[1:]}) != secret
        except IntegrityError:
            pass


@pytest.mark.parametrize("n", range(3, 65))
def test_two_survivor_sets_share_an_honest_site(n: int) -> None:
    """Of n sites at most a third collude; two sets of threshold size overlap in more than these."""
    assert 2 * threshold_of(n) - n > n // 3 or threshold_of(n) == n
    assert threshold_of(n) > 2 * n / 3
