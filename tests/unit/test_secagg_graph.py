"""Secure aggregation above 64 sites: the drawn graph's arithmetic, exact sums, and what a hostile centre cannot do."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from privacy.envelope.keys import SecretKey
from privacy.secagg import (
    Advert,
    Bundle,
    Hub,
    Letter,
    Member,
    MemoryGuard,
    Neighbour,
    Release,
    Session,
    Tally,
    Word,
    tally_of,
    threshold_of,
)
from privacy.secagg.graph import ATTEMPTS, FAILURE, Degree, chance, count_of, degree_of, draw
from protocol.errors import ConflictError, InputError, IntegrityError, StudyRefused, UnavailableError
from protocol.trust import Purpose

SIZE = 200
SITES = 70  # each draws 17 holders, 7 shares give a secret back, the threshold is 47
KEYS = {f"site-{i:02d}": SecretKey.generate() for i in range(SITES)}
NAMES = tuple(KEYS)


def session(**changes: object) -> Session:
    roster = {site: key.public.fingerprint for site, key in KEYS.items()}
    made = {"study": "5" * 64, "run": "r/train", "round": 1, "attempt": 0, "roster": roster}
    return Session(**(made | changes))  # type: ignore[arg-type]


class Round:
    """Seventy sites and a centre; messages cross as bytes."""

    def __init__(self, guards: dict[str, MemoryGuard] | None = None, **changes: object) -> None:
        self.session = session(**changes)
        self.guards = guards or {site: MemoryGuard() for site in NAMES}
        self.members = {site: Neighbour(self.session, site, KEYS[site], self.guards[site]) for site in NAMES}
        self.hub = Hub(self.session, SIZE)
        draws = np.random.default_rng(1)
        self.plain = {site: draws.integers(0, 2**64, SIZE, dtype=np.uint64) for site in NAMES}

    def advertise(self, lost: Iterable[str] = ()) -> Round:
        for site in set(NAMES) - set(lost):
            self.hub.take_advert(Advert.from_bytes(self.members[site].advertise().to_bytes()))
        self.hub.close_adverts()
        return self

    def adverts(self, site: str) -> list[Advert]:
        return [Advert.from_bytes(raw) for raw in self.hub.adverts_for(site)]

    def share(self, lost: Iterable[str] = (), only: Iterable[str] = NAMES) -> Round:
        for site in (set(self.hub.adverts) & set(only)) - set(lost):
            self.hub.take_bundle(Bundle.from_bytes(self.members[site].share(self.adverts(site)).to_bytes()))
        return self

    def told(self, site: str) -> tuple[list[str], list[Letter]]:
        names, *letters = self.hub.bundles_for(site)
        return names.decode().split("\x00"), [Letter.from_bytes(raw) for raw in letters]

    def mask(self, lost: Iterable[str] = (), only: Iterable[str] | None = None) -> Round:
        self.hub.close_bundles()
        for site in sorted(self.hub.bundles if only is None else only):
            masked, word = self.members[site].mask(*self.told(site), self.plain[site].copy())
            if site not in lost:
                self.hub.take_masked(site, masked, word.to_bytes())
        return self

    def sign(self, lost: Iterable[str] = ()) -> Round:
        for site in set(self.hub.survivors()) - set(lost):
            self.hub.take_word(Word.from_bytes(self.members[site].sign(self.hub.survivors()).to_bytes()))
        return self

    def words(self, site: str) -> list[Word]:
        return [Word.from_bytes(raw) for raw in self.hub.words_for(site)]

    def release(self, lost: Iterable[str] = ()) -> Round:
        for site in set(self.hub.words) - set(lost):
            self.hub.take_release(Release.from_bytes(self.members[site].release(self.words(site)).to_bytes()))
        return self

    def expected(self) -> np.ndarray:
        total = np.zeros(SIZE, np.uint64)
        for site in self.hub.survivors():
            total += self.plain[site]
        return total

    def holders(self, site: str) -> set[str]:
        made, graph = self.session, self.session.graph
        assert graph is not None
        return set(draw(made.digest, self.hub.adverts[site].seed, site, made.names, graph.degree))

    def owners(self, site: str) -> set[str]:
        return {peer for peer in NAMES if peer in self.hub.adverts and site in self.holders(peer)}


# -- the degree


@pytest.mark.parametrize(
    ("sites", "colluding", "dropout"),
    [(65, 0.0, 0.0), (65, 0.2, 0.1), (70, 0.05, 0.1), (100, 0.2, 0.1), (333, 0.1, 0.15), (1000, 0.05, 0.1)],
)
def test_the_degree_is_the_smallest_that_fails_rarely_enough(sites: int, colluding: float, dropout: float) -> None:
    lost = {"colluding": count_of(colluding, sites), "dropout": count_of(dropout, sites)}
    made = degree_of(sites, threshold_of(sites), **lost)
    assert ATTEMPTS * sum(chance(made, roster=sites, threshold=threshold_of(sites), **lost)) <= FAILURE
    assert made.shares > 0
    if made.degree > 1:
        for shares in range(1, made.degree):
            less = Degree(degree=made.degree - 1, shares=shares)
            both = chance(less, roster=sites, threshold=threshold_of(sites), **lost)
            assert max(both) > FAILURE / 2 / ATTEMPTS


def test_more_colluders_or_dropouts_ask_for_more_neighbours() -> None:
    def degree(colluding: int, dropout: int) -> int:
        return degree_of(500, threshold_of(500), colluding, dropout).degree

    assert degree(0, 50) < degree(25, 50) < degree(50, 50) < degree(100, 50)
    assert degree(25, 25) < degree(25, 50) < degree(25, 100)
    assert degree_of(1000, 667, 50, 100).degree < 100  # Bell et al. have a few dozen too


@pytest.mark.parametrize(("colluding", "dropout"), [(0.2, 0.2), (0.0, 0.35), (0.36, 0.0)])
def test_more_than_the_threshold_bears_is_refused(colluding: float, dropout: float) -> None:
    with pytest.raises(InputError) as refused:
        session(colluding=colluding, dropout=dropout)
    assert refused.value.code == "input.study"


def tail(population: int, marked: int, drawn: int, wanted: Iterable[int]) -> Fraction:
    ways = sum(math.comb(marked, i) * math.comb(population - marked, drawn - i) for i in wanted if i <= drawn)
    return Fraction(ways, math.comb(population, drawn))


@pytest.mark.parametrize(("sites", "degree", "shares", "colluding", "dropout"),
                         [(12, 5, 2, 1, 2), (40, 12, 4, 3, 6), (300, 40, 15, 15, 30)])  # fmt: skip
def test_tails_are_those_of_exact_fractions(sites: int, degree: int, shares: int, colluding: int, dropout: int) -> None:
    made, threshold = Degree(degree=degree, shares=shares), threshold_of(sites)
    lost, apart = chance(made, roster=sites, threshold=threshold, colluding=colluding, dropout=dropout)
    good = sites - colluding - dropout - 1
    assert lost == pytest.approx(float(min(1, sites * tail(sites - 1, good, degree, range(shares)))), rel=1e-9)
    honest, exact = sites - colluding, Fraction(0)
    for size in range(1, honest // 2 + 1):
        rest = max(size, threshold - colluding - size)
        if size + rest > honest:
            break
        inside = tail(sites - 1, size - 1 + colluding, degree, range(shares, degree + 1)) ** size
        outside = tail(sites - 1, rest, degree, [0]) ** size * math.comb(honest - size, rest)
        exact += min(Fraction(1), math.comb(honest, size) * (min(inside, outside) if size > 1 else inside))
    assert apart == pytest.approx(float(min(1, exact)), rel=1e-9)


def torn(draws: dict[int, frozenset[int]], honest: set[int], shares: int, threshold: int, colluding: int) -> bool:
    """By trying all sets and all survivors: can a set of at most half the honest survivors be taken apart?"""
    wrong = set(draws) - honest
    if any(len(draws[site] & wrong) >= shares for site in honest):
        return True
    for size in range(1, len(honest) // 2 + 1):
        for chosen in itertools.combinations(sorted(honest), size):
            some = set(chosen)
            if any(len(draws[site] & (some | wrong)) < shares for site in some):
                continue
            near = set().union(*(draws[site] for site in some))
            if len(honest - some - near) >= max(size, threshold - colluding - size):
                return True
    return False


@pytest.mark.parametrize(("degree", "shares"), [(3, 2), (4, 2), (5, 3)])
def test_the_bound_holds_against_all_choices_of_a_hostile_centre(degree: int, shares: int) -> None:
    """Monte Carlo over graphs, brute force over what the centre may do with each."""
    sites, colluding, threshold, tries = 12, 1, threshold_of(12), 150
    names, honest = [str(i) for i in range(sites)], set(range(sites - colluding))
    found = 0
    for at in range(tries):
        seeds = {name: f"{at}/{name}".encode() for name in names}
        draws = {int(n): frozenset(int(h) for h in draw(b"", seeds[n], n, names, degree)) for n in names}
        found += torn(draws, honest, shares, threshold, colluding)
    made = Degree(degree=degree, shares=shares)
    bound = chance(made, roster=sites, threshold=threshold, colluding=colluding, dropout=1)[1]
    assert found / tries <= bound + 3 * math.sqrt(max(bound * (1 - bound), 1e-3) / tries)


def test_sites_that_are_left_alone_are_as_frequent_as_reckoned() -> None:
    sites, degree, colluding, dropout, tries = 80, 8, 4, 12, 60
    names = [f"{i:02d}" for i in range(sites)]
    alive = set(names[colluding + dropout :])
    counts: Counter[int] = Counter()
    for at in range(tries):
        for name in sorted(alive):
            counts[len(draw(b"", f"{at}".encode(), name, names, degree) & alive)] += 1
    for shares in (4, 5, 6):
        exact = float(tail(sites - 1, len(alive) - 1, degree, range(shares)))
        seen, of = sum(counts[i] for i in range(shares)), sum(counts.values())
        assert abs(seen / of - exact) < 4 * math.sqrt(exact * (1 - exact) / of)
        made = Degree(degree=degree, shares=shares)
        lost = chance(made, roster=sites, threshold=54, colluding=colluding, dropout=dropout)[0]
        assert lost == pytest.approx(min(1.0, sites * exact))


def test_a_draw_is_uniform_and_follows_from_seed_site_and_session() -> None:
    counts: Counter[str] = Counter()
    for at in range(700):
        chosen = draw(b"c", at.to_bytes(32, "big"), "site-03", NAMES, 10)
        assert len(chosen) == 10
        assert "site-03" not in chosen
        counts.update(chosen)
    expected = 700 * 10 / 69
    assert sum((counts[n] - expected) ** 2 / expected for n in NAMES if n != "site-03") < 69 + 5 * math.sqrt(2 * 69)
    one = draw(b"c", bytes(32), "site-03", NAMES, 10)
    assert one == draw(b"c", bytes(32), "site-03", NAMES, 10)
    others = [(b"d", bytes(32), "site-03"), (b"c", b"\x01" * 32, "site-03"), (b"c", bytes(32), "site-04")]
    assert all(draw(*other, NAMES, 10) != one for other in others)
    assert draw(b"c", bytes(32), "site-03", NAMES, 69) == set(NAMES) - {"site-03"}


def test_up_to_64_sites_nothing_has_changed() -> None:
    """The digest to which every signature and mask is bound, and the steps' bytes."""
    roster = {f"s{i}": f"{i:064x}" for i in range(64)}
    made = Session(study="5" * 64, run="r/train", round=1, attempt=0, roster=roster)
    assert made.graph is None
    assert made.digest.hex() == "d7505282c8894022e2b8d8f8dd1fcb9ab5451a201f5c6e2365c9fa4a0c85608d"
    key = SecretKey.generate()
    small = session(roster={"site-00": KEYS["site-00"].public.fingerprint, "b": "0" * 64, "c": key.public.fingerprint})
    advert = Member(small, "site-00", KEYS["site-00"], MemoryGuard()).advertise()
    assert b"seed" not in advert.to_bytes()
    assert Advert.from_bytes(advert.to_bytes()) == advert
    with pytest.raises(InputError):
        Neighbour(small, "site-00", KEYS["site-00"], MemoryGuard())
    with pytest.raises(InputError):
        Member(session(), "site-00", KEYS["site-00"], MemoryGuard())
    assert type(tally_of(small, SIZE)) is Tally
    assert type(tally_of(session(), SIZE)) is Hub


# -- sums


@pytest.mark.slow
def test_the_sum_is_exact_over_dropouts_at_every_step() -> None:
    gone = {step: NAMES[3 * at : 3 * at + 2] for at, step in enumerate(("advertise", "share", "mask", "sign"))}
    made = Round().advertise(gone["advertise"]).share(gone["share"]).mask(gone["mask"]).sign(gone["sign"])
    counted = set(NAMES) - set(gone["advertise"]) - set(gone["share"]) - set(gone["mask"])
    assert set(made.hub.survivors()) == counted
    masked = made.hub._sum.copy()
    made.release(lost=NAMES[12:14])
    total = made.hub.total()
    assert np.array_equal(total, made.expected())
    assert not np.array_equal(total, masked)
    late = NAMES[6]  # dropped, then late
    with pytest.raises(IntegrityError) as refused:
        made.hub.take_masked(late, made.plain[late].copy(), made.hub._said[NAMES[20]].to_bytes())
    assert refused.value.code == "masks.replay"


def test_below_the_threshold_nothing_goes_on() -> None:
    made = Round()
    with pytest.raises(UnavailableError):
        made.advertise(NAMES[:24])  # 46 are left, the threshold is 47
    made = Round().advertise()
    few = [advert for advert in made.adverts("site-00") if advert.site not in made.holders("site-00")]
    with pytest.raises(UnavailableError):
        made.members["site-00"].share(few)
    victim = next(site for site in NAMES[1:] if "site-00" not in made.owners(site))
    made.share(only={victim, *made.owners(victim)})
    with pytest.raises(UnavailableError):
        made.hub.close_bundles()
    with pytest.raises(UnavailableError):
        made.members[victim].mask(*made.told(victim), made.plain[victim].copy())


# -- a hostile centre, against one site's step


def test_a_swapped_key_or_a_foreign_one_is_refused() -> None:
    made = Round().advertise()
    for victim, change in (("site-00", "ephemeral"), ("site-01", "identity"), ("site-02", "seed")):
        adverts = made.adverts(victim)
        other = next(advert for advert in adverts if advert.site != victim)
        key = SecretKey.generate()
        forged = {"ephemeral": key.public.to_bytes(), "identity": key.public.to_bytes(), "seed": bytes(32)}[change]
        false = replace(other, **{change: forged})
        if change == "identity":
            false = replace(false, signature=key.sign(Purpose.MASKS, false.signed(made.session)))
        with pytest.raises(IntegrityError) as refused:
            made.members[victim].share([false if advert is other else advert for advert in adverts])
        assert refused.value.code == "masks.signature"


def test_a_site_that_is_no_neighbour_is_refused() -> None:
    made = Round().advertise()
    for victim in ("site-00", "site-01", "site-02"):
        stranger = next(s for s in NAMES if s not in {victim} | made.holders(victim) | made.owners(victim))
        with pytest.raises(IntegrityError) as refused:
            made.members[victim].share([*made.adverts(victim), made.hub.adverts[stranger]])
        assert refused.value.code == "masks.signature"


def test_the_centre_does_not_choose_who_holds_shares() -> None:
    """Leaving out neighbours makes a site give up, never share with somebody else."""
    made = Round().advertise()
    holders = made.holders("site-00")
    chosen = sorted(holders)[:7]
    adverts = [a for a in made.adverts("site-00") if a.site in {"site-00", *chosen}]
    assert set(made.members["site-00"].share(adverts).sealed) == set(chosen)
    fewer = [a for a in made.adverts("site-01") if a.site not in sorted(made.holders("site-01"))[:11]]
    with pytest.raises(UnavailableError):
        made.members["site-01"].share(fewer)
    without = {a.site: a for a in made.adverts("site-02")}
    del without["site-02"]
    with pytest.raises(IntegrityError):
        made.members["site-02"].share(without.values())


def test_an_advert_without_its_seed_is_refused() -> None:
    """A site cannot withhold what its neighbours are drawn from, and still take part."""
    made = Round()
    advert = made.members["site-00"].advertise()
    for seed in (b"", bytes(31)):
        bare = replace(advert, seed=seed)
        bare = replace(bare, signature=KEYS["site-00"].sign(Purpose.MASKS, bare.signed(made.session)))
        with pytest.raises(IntegrityError):
            made.hub.take_advert(bare)


def test_a_sybil_roster_is_refused() -> None:
    one = KEYS["site-00"].public.fingerprint
    with pytest.raises(InputError):
        session(roster={site: one if site == "site-69" else KEYS[site].public.fingerprint for site in NAMES})
    with pytest.raises(StudyRefused):
        Neighbour(session(), "site-00", SecretKey.generate(), MemoryGuard())
    with pytest.raises(InputError):
        session(roster={f"s{i}": str(i) for i in range(1001)})


@pytest.mark.slow
def test_shares_of_strangers_and_of_other_receivers_are_refused() -> None:
    made = Round().advertise()
    victims = ["site-00", "site-01", "site-02", "site-03"]
    made.share()
    told = {victim: made.told(victim) for victim in victims}

    def code(victim: str, letters: list[Letter]) -> str:
        with pytest.raises(IntegrityError) as refused:
            made.members[victim].mask(list(NAMES), letters, made.plain[victim].copy())
        return refused.value.code

    stranger = next(s for s in NAMES if s in made.hub.bundles and s not in made.owners("site-00"))
    foreign = next(iter(made.hub.bundles[stranger].letters().values()))
    assert code("site-00", [*told["site-00"][1], foreign]) == "masks.signature"
    first, *rest = told["site-01"][1]
    others = made.hub.bundles[first.site].letters()
    misled = next(letter for receiver, letter in others.items() if receiver != "site-01")
    assert code("site-01", [misled, *rest]) == "masks.share"
    first, *rest = told["site-02"][1]
    assert code("site-02", [replace(first, leaves=bytes(32)), *rest]) == "masks.signature"
    assert code("site-03", told["site-03"][1][1:]) == "masks.replay"  # an owner is kept from it


def test_a_holder_that_is_said_to_share_and_was_not_shown_is_noticed() -> None:
    made = Round().advertise()
    hidden = min(made.holders("site-00") - made.owners("site-00"))
    made.members["site-00"].share([a for a in made.adverts("site-00") if a.site != hidden])
    made.share(only=made.owners("site-00"))
    with pytest.raises(IntegrityError) as refused:
        made.members["site-00"].mask(NAMES, made.told("site-00")[1], made.plain["site-00"].copy())
    assert refused.value.code == "masks.replay"


# -- a hostile centre, once the survivors are signed; each test uses sites of its own


@pytest.fixture(scope="module")
def signed() -> Round:
    return Round().advertise().share().mask(lost=["site-69"]).sign()


@pytest.mark.slow
def test_a_second_survivor_set_is_refused(signed: Round) -> None:
    member, survivors = signed.members["site-00"], signed.hub.survivors()
    assert member.sign(survivors) == signed.hub.words["site-00"]
    with pytest.raises(IntegrityError) as refused:
        member.sign(survivors[:60])
    assert refused.value.code == "masks.replay"


def test_words_of_fewer_than_two_thirds_release_nothing(signed: Round) -> None:
    words = signed.words("site-01")
    on_survivors = [word for word in words if word.about == "survivors"]
    assert len(on_survivors) == 47
    with pytest.raises(IntegrityError) as refused:
        signed.members["site-01"].release([word for word in words if word is not on_survivors[0]])
    assert refused.value.code == "masks.replay"
    words = signed.words("site-02")
    with pytest.raises(IntegrityError):
        signed.members["site-02"].release([*words[1:], words[1]])  # one twice


def test_a_word_on_other_survivors_or_another_list_of_sharers_is_refused(signed: Round) -> None:
    """A centre that told two sites different lists gets no share from either."""
    from privacy.secagg.messages import names_digest

    survivors, sharers = names_digest(signed.hub.survivors()), names_digest(NAMES)
    cases = [
        ("site-03", "survivors", (sharers, names_digest(NAMES[:50]))),
        ("site-04", "survivors", (names_digest(NAMES[1:]), survivors)),
        ("site-05", "masked", (names_digest(NAMES[1:]),)),
    ]
    for victim, about, sets in cases:
        words = signed.words(victim)
        at = next(i for i, word in enumerate(words) if word.about == about)
        false = KEYS[words[at].site].sign(Purpose.MASKS, words[at].signed(signed.session, *sets))
        words[at] = replace(words[at], signature=false)
        with pytest.raises(IntegrityError) as refused:
            signed.members[victim].release(words)
        assert refused.value.code == "masks.signature"


def test_no_share_of_a_survivor_leaves_that_has_not_said_with_whom_it_is_masked(signed: Round) -> None:
    words = signed.words("site-06")
    last = next(word for word in reversed(words) if word.about == "masked")
    with pytest.raises(IntegrityError) as refused:
        signed.members["site-06"].release([word for word in words if word is not last])
    assert refused.value.code == "masks.replay"
    with pytest.raises(IntegrityError):  # nor does a word of the other kind stand for it
        signed.members["site-07"].release([replace(w, about="survivors") for w in signed.words("site-07")])


def test_the_self_mask_or_the_root_never_both(signed: Round) -> None:
    holder = next(s for s in sorted(signed.holders("site-69")) if s > "site-20")
    release = signed.members[holder].release(signed.words(holder))
    assert set(release.roots) == {"site-69"}
    assert set(release.self_masks) == signed.owners(holder) - {"site-69"}
    with pytest.raises(IntegrityError):
        signed.members[holder].release(signed.words(holder))
    signed.hub.take_release(release)
    for changed in ({"roots": {}}, {"self_masks": dict(release.self_masks) | {"site-69": b"x"}},
                    {"self_masks": dict(release.self_masks) | {min(release.self_masks): bytes(66)}}):  # fmt: skip
        with pytest.raises(IntegrityError) as refused:
            signed.hub.take_release(replace(release, **changed))
        assert refused.value.code == "masks.share"


@pytest.mark.slow
def test_whoever_has_signed_answers_no_other_attempt_under_whatever_name(signed: Round) -> None:
    """Nobody's shares are out yet, and a smaller set is refused all the same: 23 sites may hold one site's shares."""
    for changes in ({"attempt": 1}, {"run": "another/train"}):
        again = Round(signed.guards, **changes).advertise()
        victim = "site-08"
        again.share(only={victim, *again.owners(victim)})
        names = set(NAMES)
        again.members[victim].mask(names, again.told(victim)[1], again.plain[victim].copy())
        with pytest.raises(ConflictError) as refused:
            again.members[victim].sign(names - {"site-30"})
        assert refused.value.code == "conflict.round"


def test_words_of_another_attempt_are_of_no_use(signed: Round) -> None:
    other = session(attempt=1)
    word = signed.hub.words["site-10"]
    from privacy.secagg.messages import check, names_digest

    sets = (names_digest(NAMES), names_digest(signed.hub.survivors()))
    check(KEYS["site-10"].public, word.signed(signed.session, *sets), word.signature)
    with pytest.raises(IntegrityError):
        check(KEYS["site-10"].public, word.signed(other, *sets), word.signature)


# -- a hostile site


def test_a_bundle_for_others_than_were_drawn_is_left_out() -> None:
    made = Round().advertise()
    bundle = made.members["site-00"].share(made.adverts("site-00"))
    least = min(bundle.sealed)
    less = replace(
        bundle,
        sealed={k: v for k, v in bundle.sealed.items() if k != least},
        digests={k: v for k, v in bundle.digests.items() if k != least},
    )
    less = replace(less, signature=KEYS["site-00"].sign(Purpose.MASKS, less.signed(made.session)))
    with pytest.raises(IntegrityError) as refused:
        made.hub.take_bundle(less)
    assert refused.value.code == "masks.share"


@pytest.mark.slow
def test_a_vector_without_its_word_is_left_out() -> None:
    made = Round().advertise()
    made.share(only=NAMES[:47]).mask(only=())
    member = made.members["site-00"]
    masked, word = member.mask(*made.told("site-00"), made.plain["site-00"].copy())
    others = KEYS["site-01"].sign(Purpose.MASKS, word.signed(made.session, b""))
    for false in (replace(word, site="site-01"), replace(word, about="survivors"), replace(word, signature=others)):
        with pytest.raises(IntegrityError):
            made.hub.take_masked("site-00", masked, false.to_bytes())
    with pytest.raises(InputError):
        made.hub.take_masked("site-00", masked)
    made.hub.take_masked("site-00", masked, word.to_bytes())


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"[" * 100_000, b'{"site":1}', b"\xff"])
@pytest.mark.parametrize("kind", [Letter, Word])
def test_bytes_that_are_no_message_are_refused(kind: type[Letter] | type[Word], raw: bytes) -> None:
    with pytest.raises(InputError):
        kind.from_bytes(raw)


def test_a_word_about_something_else_is_no_message() -> None:
    raw = Word(about="masked", site="a", identity=b"", signature=b"").to_bytes()
    assert Word.from_bytes(raw).about == "masked"
    with pytest.raises(InputError):
        Word.from_bytes(raw.replace(b"masked", b"nobody"))
