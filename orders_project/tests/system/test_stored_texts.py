"""
Texts that want to run, stored in every table of the running system, and looked at in a real browser.

It leaves rows that make no sense: of the tests of this folder it is the last that looks at the back office.
"""

import pytest

from orders_project.tests.operators import Operator

pytestmark = pytest.mark.processes

HARMFUL = (  # the first breaks out of text and of attributes in either quotes; short fields keep its beginning
    "'\"><img src=x onerror=harmed=1><script>harmed = 1</script><style>* { display: none }</style>"
    "<base href='//evil.example/'>",
    "javascript:harmed = 1",
)


def test_stored_texts_run_nowhere(user: Operator) -> None:
    """The newest rows of every table hold texts that want to run: no page lets them, or has to be stopped from it."""
    code = (
        "from orders_project.tests.fill import admin_models, fill\n"
        f"for text in {HARMFUL!r}:\n"
        "    for model in admin_models():\n"
        "        fill(model, text)\n"
        "        print(f'/admin/{model._meta.app_label}/{model._meta.model_name}/')\n"
    )
    lists = sorted(set(user.system.manage("shell", "-v", "0", "-c", code).split()))
    assert len(lists) > 20
    for where in lists:
        looked_at(user, where)
        rows = user.page.eval_on_selector_all("#result_list tbody th a", "all => all.map(a => a.getAttribute('href'))")
        assert len(rows) >= len(HARMFUL) - 1, where  # those that go to a page of the row
        looked_at(user, rows[min(len(rows), len(HARMFUL)) - 1].partition("?")[0])  # of the first text


def looked_at(user: Operator, path: str) -> None:
    """Open a page, on which nothing of what is stored has run."""
    user.open(path)
    assert user.page.evaluate("typeof harmed") == "undefined", path
    assert user.page.evaluate("document.body.innerText.length") > 200, path
    user.is_well()
