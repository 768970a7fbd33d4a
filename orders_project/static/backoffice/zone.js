// Tells the server the time zone of the viewer, once, and reloads the page to show its times.
"use strict";
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const known = document.cookie.split("; ").find((one) => one.startsWith("timezone="));
if (zone && known !== `timezone=${encodeURIComponent(zone)}`) {
  document.cookie = `timezone=${encodeURIComponent(zone)}; path=/admin/; max-age=31536000; samesite=lax`;
  const kept = document.cookie.includes("timezone=");
  if (kept && document.getElementById("zone")?.textContent !== zone && !document.querySelector("form[data-step]")) {
    location.reload();
  }
}
