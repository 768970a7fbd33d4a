// A run is shown anew, or continues, by itself; without scripts its button does the same.
"use strict";
const next = document.querySelector("form[data-step]");
if (next) setTimeout(() => next.requestSubmit(), Number(next.dataset.step) || 400);
