"""A person saves a search with its filters and its sorting under a name, on every list of the admin."""

from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from common.admin import saved_filters
from orders import factories
from orders_project.models import SavedFilter

pytestmark = pytest.mark.django_db

LIST = "/admin/orders/order/"
NASTY = "<img src=x onerror=alert(1)>"


def browser_of(name: str, *groups: str) -> Client:
    user = User.objects.create_user(name, is_staff=True)
    user.groups.set(Group.objects.filter(name__in=groups))
    client = Client()
    client.force_login(user)
    return client


def saved(client: Client, query: str, page: str = LIST, **form: str) -> Any:
    """Save a filter; return what the list shows then."""
    answer: Any = client.post(f"{page}filters/save/?{query}", {"name": "mine", **form}, follow=True)
    assert answer.status_code == 200
    return answer.context


def save(client: Client, query: str, **form: str) -> list[str]:
    """Save a filter; return what the list says then."""
    return [str(one) for one in saved(client, query, **form)["messages"]]


def opened(client: Client, name: str = "mine", shown: Any = None) -> Any:
    """Open a filter by the link that the list shows."""
    filters = (shown or client.get(LIST).context)["saved_filters"]
    links = {one["filter"].name: one["url"] for one in [*filters["own"], *filters["shared"]]}
    return client.get(links[name], follow=True)


def test_opens_with_its_search_filters_and_sorting(boss: Client) -> None:
    columns = boss.get(LIST).context["cl"].list_display
    orders = [factories.order(user_id="ann") for _ in range(2)]
    factories.order(user_id="bob")
    assert save(boss, f"q=ANN&standing=open&o={columns.index('number')}&older=x&e=1") == ["The filter “mine” is saved."]
    assert SavedFilter.objects.get().params == [["q", "ANN"], ["standing", "open"], ["o", "number"]]
    page = opened(boss)
    assert (page.context["cl"].result_list, page.context["cl"].query) == (orders, "ANN")
    assert not list(page.context["messages"])
    viewer = browser_of("viewer", "viewer")  # has no boxes to tick, so that its columns are in other places
    SavedFilter.objects.update(shared=True)
    assert opened(viewer).context["cl"].result_list == orders


def test_of_the_same_name_is_replaced_and_names_are_in_the_database_once(boss: Client) -> None:
    assert save(boss, "q=a") == ["The filter “mine” is saved."]
    assert save(boss, "q=b") == ["The filter “mine” is replaced."]
    (one,) = SavedFilter.objects.all()
    assert one.params == [["q", "b"]]
    with pytest.raises(IntegrityError), transaction.atomic():
        SavedFilter.objects.create(user=one.user, page=one.page, name=one.name, params=[], saved_at=timezone.now())
    save(boss, "q=c", name="other")
    other = SavedFilter.objects.get(name="other")
    answer = boss.post(f"{LIST}filters/{other.pk}/", {"name": "mine"}, follow=True)
    assert "already have a filter" in answer.content.decode()


def test_is_renamed_shared_and_deleted_by_its_owner_alone(boss: Client) -> None:
    save(boss, "q=a")
    one = SavedFilter.objects.get()
    url, other = f"{LIST}filters/{one.pk}/", browser_of("other", "viewer")
    assert other.get(url).status_code == 404
    assert boss.post(url, {"name": "ours", "shared": "on"}).status_code == 302
    assert other.get(url).status_code == 302
    assert other.post(url, {"delete": "yes"}).status_code == 404
    assert other.post(url, {"name": "stolen"}).status_code == 404
    assert opened(other, "ours").context["cl"].query == "a"
    assert [row["filter"] for row in boss.get(f"{LIST}filters/").context["filters"]] == [one]
    assert not other.get(f"{LIST}filters/").context["filters"]
    boss.post(url, {"delete": "yes"})
    assert not SavedFilter.objects.exists()


@pytest.mark.parametrize(
    ("params", "ignored"),
    [
        ([["standing", "open"], ["gone__exact", "1"]], "gone__exact=1"),
        ([["standing", "gone"]], "standing=gone"),
        ([["status__exact", "gone"], ["status__exact", "done"]], "status__exact=gone"),
        ([["standing", "open"], ["o", "gone"]], "o=gone"),
        ([["from", "yesterday"], ["standing", "open"]], "from=yesterday"),
        ([["payment_method", "shells"]], "payment_method=shells"),
    ],
)
def test_opens_without_what_is_gone_and_says_so(boss: Client, params: Any, ignored: str) -> None:
    user = User.objects.get()
    SavedFilter.objects.create(user=user, page="orders.order", name="mine", params=params, saved_at=timezone.now())
    page = opened(boss)
    assert page.status_code == 200
    (said,) = page.context["messages"]
    assert str(said).endswith(f"so this was ignored: {ignored}.")
    assert len(page.redirect_chain) == 1
    left = [one for one in params if "=".join(one) != ignored]
    assert page.request["QUERY_STRING"] == "&".join("=".join(one) for one in left)


def test_has_limits(boss: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_filters, "MAX_FILTERS", 1)
    assert "at most 60" in save(boss, "q=a", name="x" * 61)[0]
    assert save(boss, "q=a", name=" ") == ["This field is required."]
    assert save(boss, f"q={'a' * 2000}") == ["The filter is too long to be saved."]
    assert save(boss, "") == []
    assert not SavedFilter.objects.exists()
    save(boss, "q=a")
    assert save(boss, "q=a", name="second") == ["No more than 1 filters can be saved. Delete one first."]
    assert save(boss, "q=b") == ["The filter “mine” is replaced."]


def test_shows_nothing_to_those_who_may_not_see_the_list(boss: Client) -> None:
    save(boss, "q=a", shared="on")
    one = SavedFilter.objects.get()
    stranger = browser_of("stranger")
    for url in (f"{LIST}filters/", f"{LIST}filters/{one.pk}/"):
        assert stranger.get(url).status_code == 403
    assert stranger.post(f"{LIST}filters/save/?q=a", {"name": "x"}).status_code == 403
    assert boss.get(f"/admin/payments/payment/filters/{one.pk}/").status_code == 404  # of another list
    assert boss.get(f"{LIST}filters/{uuid4()}/").status_code == 404
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(User.objects.get(username="boss"))
    assert careful.post(f"{LIST}filters/save/?q=b", {"name": "forged"}).status_code == 403
    assert careful.post(f"{LIST}filters/{one.pk}/", {"delete": "yes"}).status_code == 403


def test_is_no_place_for_scripts(boss: Client) -> None:
    save(boss, "q=%3Cscript%3E", name=NASTY, shared="on")
    for page in (LIST, f"{LIST}filters/"):
        text = boss.get(page).content.decode()
        assert NASTY not in text
        assert "&lt;img src=x" in text
    assert "<script>" not in opened(boss, NASTY).content.decode().replace("<script src", "")


def test_is_there_on_every_list(boss: Client) -> None:
    pages: Any = admin.site._registry
    for model, page in pages.items():
        url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        shown = saved(boss, "q=a" if page.get_search_fields(None) else "o=1", url)
        assert [str(one) for one in shown["messages"]] == ["The filter “mine” is saved."], url
        assert opened(boss, shown=shown).status_code == 200
