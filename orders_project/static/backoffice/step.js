// A bulk run continues by itself; without scripts its button does the same.
"use strict";
const next = document.querySelector("form[data-step]");
if (next) setTimeout(() => next.requestSubmit(), 400);
