// Ids stand in one line, and are copied with one click: in lists when the mouse is over them, on the page of a row always.
"use strict";
const ID = /^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[a-z]+_[0-9A-Za-z]{16,})$/;  // ours, or a gateway's
const WORDS = document.currentScript.dataset;

function copier(id, inList) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy icon";
  button.title = WORDS.copy;
  button.setAttribute("aria-label", `${WORDS.copy} ${id}`);
  if (inList) button.tabIndex = -1;  // the keyboard copies it on the page of the row
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(id);
    button.classList.add("done");
    button.title = WORDS.copied;
  });
  return button;
}

for (const place of document.querySelectorAll("#result_list th, #result_list td, .panel td, .readonly")) {
  const id = place.textContent.trim();
  if (!ID.test(id)) continue;
  const inList = !place.matches(".readonly");
  place.classList.add("id");
  (place.querySelector("a") ?? place).title = id;
  if (inList) {
    const text = document.createElement("span");
    text.className = "id-text";
    text.append(...place.childNodes);
    place.append(text);
  }
  if (navigator.clipboard) place.append(copier(id, inList));
}
