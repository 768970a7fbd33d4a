// The dashboard reloads itself, unless it is hidden or the viewer has switched this off.
"use strict";
const live = document.getElementById("live");
const wanted = document.getElementById("live-switch");

async function refresh() {
  if (!wanted.checked || document.hidden) return;
  const answer = await fetch(location.href, { headers: { "X-Requested-With": "live" }, redirect: "error" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("live");
  if (!fresh) return;
  const focused = live.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  live.replaceChildren(...fresh.childNodes);
  if (focused !== null) {
    [...live.querySelectorAll("a")].find((link) => link.getAttribute("href") === focused)?.focus();
  }
}

if (live && wanted) setInterval(() => refresh().catch(() => {}), Number(live.dataset.every) * 1000);
