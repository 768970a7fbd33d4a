// An errand goes on by itself; without script its button does the same.
"use strict";
const next = document.querySelector("form[data-step]");
if (next) setTimeout(() => next.requestSubmit(), 400);
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
  });
}
