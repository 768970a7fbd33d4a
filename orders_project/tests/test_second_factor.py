"""The second factor of people: offered to everybody, demanded of managers, asked for at every login."""

from base64 import b32decode
from io import StringIO
from re import findall
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.management import CommandError, call_command
from django.test import Client
from django_otp.oath import TOTP
from django_otp.plugins.otp_totp.models import TOTPDevice

pytestmark = pytest.mark.django_db

PASSWORD = "right-and-long"


def person(name: str, role: str) -> User:
    user = User.objects.create_user(name, password=PASSWORD, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def code(device: TOTPDevice, *, ahead: int = 0) -> str:
    """What the app shows now, or after so many half minutes."""
    totp = TOTP(device.bin_key)
    return f"{totp.token() if not ahead else TOTP(device.bin_key, drift=ahead).token():06d}"


def log_in(http: Client, name: str, **fields: str) -> Any:
    return http.post("/admin/login/?next=/admin/", {"username": name, "password": PASSWORD, "next": "/admin/"} | fields)


def set_up(http: Client) -> TOTPDevice:
    """Set up the app as its page says."""
    page = http.get("/admin/second-factor/")
    assert page.status_code == 200
    (key,) = findall(r'id="key">([A-Z2-7=]+)<', page.content.decode())
    device = TOTPDevice.objects.get(confirmed=False)
    assert device.bin_key == b32decode(key)
    assert http.post("/admin/second-factor/", {"code": "000000"}).status_code == 422
    TOTPDevice.objects.update(throttling_failure_count=0)
    assert http.post("/admin/second-factor/", {"code": code(device)}).status_code == 302
    device.refresh_from_db()
    return device


class TestAManager:
    @pytest.fixture(autouse=True)
    def required(self, settings: Any) -> None:
        settings.SECOND_FACTOR = "required"
        settings.API_AUTH = "required"
        person("mia", "manager")

    def test_sets_it_up_before_anything_else(self, http: Client) -> None:
        assert log_in(http, "mia").status_code == 302
        for path in ("/admin/", "/admin/orders/order/"):
            assert http.get(path, follow=True).redirect_chain[-1][0] == "/admin/second-factor/"
        assert http.get("/orders", headers={"Accept": "text/html"}).status_code == 401
        set_up(http)
        assert http.get("/admin/orders/order/").status_code == 200
        assert http.get("/orders", headers={"Accept": "text/html"}).status_code == 200

    def test_shows_a_code_at_the_next_login(self, http: Client) -> None:
        log_in(http, "mia")
        device = set_up(http)
        other = Client()
        used = code(device)
        for given in ({}, {"otp_token": "000000"}, {"otp_token": used}):
            assert log_in(other, "mia", **given).status_code == 200, given
            assert other.get("/admin/orders/order/").status_code == 302
            TOTPDevice.objects.update(throttling_failure_count=0)
        assert log_in(other, "mia", otp_token=code(device, ahead=1)).status_code == 302
        assert other.get("/admin/orders/order/").status_code == 200

    def test_cannot_be_replaced_by_somebody_with_the_password_alone(self, http: Client) -> None:
        log_in(http, "mia")
        set_up(http)
        thief = Client()
        thief.force_login(User.objects.get(username="mia"))
        assert "/admin/login/" in thief.get("/admin/second-factor/")["Location"]
        assert thief.post("/admin/second-factor/", {"code": "1"}).status_code == 302
        assert TOTPDevice.objects.filter(confirmed=True).count() == 1

    def test_who_has_lost_it_gets_it_removed(self, http: Client) -> None:
        log_in(http, "mia")
        set_up(http)
        out = StringIO()
        call_command("second_factor", "remove", "mia", stdout=out)
        assert "mia" in out.getvalue()
        assert not TOTPDevice.objects.exists()
        with pytest.raises(CommandError, match="no user nobody"):
            call_command("second_factor", "remove", "nobody")


@pytest.fixture
def http() -> Client:
    return Client()


def test_others_need_none_until_they_set_one_up(http: Client, settings: Any) -> None:
    settings.SECOND_FACTOR = "required"
    person("vic", "viewer")
    log_in(http, "vic")
    assert http.get("/admin/orders/order/").status_code == 200
    set_up(http)
    assert "Enter the code" in log_in(Client(), "vic").content.decode()


def test_managers_need_none_where_it_is_optional(http: Client) -> None:
    person("mia", "manager")
    log_in(http, "mia")
    assert http.get("/admin/orders/order/").status_code == 200


def test_codes_cannot_be_guessed(http: Client) -> None:
    person("vic", "viewer")
    log_in(http, "vic")
    set_up(http)
    guesses = [log_in(Client(), "vic", otp_token=f"{number:06d}").status_code for number in range(6)]
    assert guesses == [200] * 5 + [429]
