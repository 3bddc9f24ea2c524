"""What was given out to a person follows what the provider says of him last."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.identity.access import Account
from protocol.errors import AuthenticationError, PermissionRefused
from tests.identitykit import ISSUER, Hall, hall


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Hall]:
    with hall(tmp_path) as one:
        yield one


def anna(*groups: str, issuer: str = ISSUER, subject: str = "anna") -> Account:
    return Account(issuer=issuer, subject=subject, name="Anna", groups=groups)


def roles(made: Hall, secret: str) -> list[str]:
    return sorted(role.value for role in made.access.find(secret).roles)


def test_who_has_left_a_group_loses_what_it_gave_also_where_the_log_in_is_refused(made: Hall) -> None:
    session = made.access.login(anna("operator", "researcher"))
    token = made.access.make_token(made.access.find(session), "program", ["studies:write"], 30)["token"]
    made.access.login(anna("researcher"))
    assert roles(made, session) == ["researcher"]
    assert made.access.find(token).scopes == {"studies:write"}
    with pytest.raises(PermissionRefused) as caught:
        made.access.login(anna("hobby"))
    assert caught.value.code == "permission.role"
    for secret in (session, token):
        assert not made.access.find(secret).scopes, "an old token outlives no group"
    made.access.login(anna("researcher"))
    assert made.access.find(token).scopes == {"studies:write"}


def test_an_access_token_of_before_brings_no_group_back(made: Hall) -> None:
    session = made.access.login(anna("operator"))
    made.access.login(anna("researcher"))
    now = time.time()
    made.access.accept(anna("operator"), "eyJ.old.token", issued=now - 60, until=now + 600, reading=False)
    assert roles(made, session) == roles(made, "eyJ.old.token") == ["researcher"]
    made.access.accept(anna("operator"), "eyJ.new.token", issued=now + 3600, until=now + 600, reading=False)
    assert roles(made, "eyJ.new.token") == ["operator"], "a provider's clock that is ahead is ours at most"
    assert roles(made, made.access.login(anna("steward"))) == ["steward"]


def test_a_token_without_groups_takes_nothing_from_its_owner(made: Hall) -> None:
    """Any service that a person has logged in to could make such a one."""
    session = made.access.login(anna("operator"))
    now = time.time()
    with pytest.raises(PermissionRefused):
        made.access.accept(anna(), "eyJ.bare.token", issued=now + 1, until=now + 600, reading=True)
    assert roles(made, session) == ["operator"]


def test_the_same_subject_of_another_issuer_is_another_person(made: Hall) -> None:
    ours = made.access.find(made.access.login(anna("researcher")))
    theirs = made.access.login(anna("operator", issuer="https://other.example/"))
    with pytest.raises(AuthenticationError) as caught:
        made.access.find(theirs)
    assert caught.value.code == "auth.token"
    again = made.access.find(made.access.login(anna("researcher")))
    assert again.account == ours.account
    assert again.roles == ours.roles
