"""An operator at a browser, on the running system."""

from pathlib import Path
from typing import Any, Self

from orders_project.tests import screenshots
from orders_project.tests.running_system import RunningSystem

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
RULES = """
(rules) => axe.run(document, {runOnly: rules, resultTypes: ["violations"]})
"""
ALL, COLORS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], ["color-contrast", "link-in-text-block"]
WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (e) => window.refused.push([e.violatedDirective, e.blockedURI]));
"""
# Whoever clicks on what still moves may miss it. A style sheet made by a script is no inline style to the policy.
STILL = """
const still = new CSSStyleSheet();
still.replaceSync("*, *::before, *::after { transition: none !important; animation: none !important }");
document.adoptedStyleSheets = [...document.adoptedStyleSheets, still];
"""
# Times that are written otherwise than the others of a page, and how much wider than the screen the page is.
LOOK = r"""
() => [
  [...document.querySelectorAll("td, th, .readonly")].map((cell) => cell.textContent.trim())
    .filter((text) => /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\d [ap]\.m\.$/.test(text)),
  Math.max(0, document.documentElement.scrollWidth - window.innerWidth),
]
"""
REFUSED = "status of 422"
# What a person should never read: the name of nothing, and a time in another form than all others on the page.
SPOILED = r"""
() => [...document.querySelectorAll(".readonly, #result_list td, .panel td")].map((cell) => cell.innerText.trim())
  .filter((text) => text === "None" || /^\d{4}-\d\d-\d\d[T ]\d\d:\d\d/.test(text))
"""
NASTY = "<img src=x onerror=alert(1)>"


class Operator:
    """An operator's browser that notes whatever goes wrong."""

    def __init__(self, chromium: Any, system: RunningSystem, **context: Any) -> None:
        self.system = system
        self.context = chromium.new_context(
            timezone_id="Asia/Tokyo", locale="en", reduced_motion="reduce", **context
        )  # fmt: skip
        self.context.add_init_script(WATCH)
        self.context.add_init_script(STILL)
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        screenshots.arrive(self.page, system)
        self.errors: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", self._alarm)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.close()

    def _hear(self, said: Any) -> None:
        if said.type == "error" and REFUSED not in said.text:  # a form that is refused is no error of ours
            self.errors.append(f"{said.text} {said.location}")

    def _alarm(self, dialog: Any) -> None:
        self.errors.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def open(self, path: str) -> Any:
        answer = self.page.goto(self.system.url(path))
        assert answer.status < 400, f"{path}: {answer.status}"
        return answer

    def follow(self, target: Any) -> None:
        """Click what leads to another page, and wait for that page."""
        with self.page.expect_navigation():
            (self.page.locator(target) if isinstance(target, str) else target).click()

    def press(self, name: str) -> None:
        """Follow the verb of this name, on the page of a row or of a list."""
        self.follow(self.page.get_by_role("link", name=name, exact=True))

    def send(self, **fields: str) -> None:
        """Fill in the verb's form and send it."""
        for name, value in fields.items():
            self.page.fill(f"[name={name}]", value)
        self.follow(".submit-row [type=submit]")

    def told(self) -> str:
        return str(self.page.inner_text(".messagelist"))

    def is_well(self) -> None:
        """Nothing was written to the console and the security policy had nothing to refuse."""
        where = self.page.url
        assert not self.errors, f"{where}: {self.errors}"
        assert not self.page.evaluate("window.refused"), where
        assert not (spoiled := self.page.evaluate(SPOILED)), f"{where}: {spoiled}"

    def looks_well(self) -> None:
        """Its times have one form, and it is no wider than the screen."""
        assert self.page.evaluate(LOOK) == [[], 0], self.page.url

    def barriers(self, rules: list[str] = ALL) -> list[str]:
        """What stands in somebody's way on this page."""
        self.page.evaluate(AXE)
        return [
            f"{broken['id']}: {node['target']} {node['failureSummary'][:200]}"
            for broken in self.page.evaluate(RULES, rules)["violations"]
            for node in broken["nodes"][:3]
        ]


def approve(user: Operator, subject: str) -> None:
    """Go to what was asked for this, and approve it."""
    user.open(f"/admin/orders_project/approval/?q={subject}")
    user.follow("#result_list tbody tr:first-child th a")
    user.press("Approve")
    user.send()
