// Every part of the page runs this when it is made, with its own `element` and `trigger`.
// Clicks go to Python: `data-act` says what, `data-id` on which picture.
const say = (message) => {
  const place = document.querySelector("#gc-said");
  if (place) place.textContent = message;
};

element.addEventListener("click", (event) => {
  const word = event.target.closest("[data-word]");
  if (word) {
    const figure = word.closest("figure");
    for (const one of figure.querySelectorAll("[data-word]"))
      one.setAttribute("aria-pressed", String(one === word));
    for (const map of figure.querySelectorAll("[data-map]"))
      map.hidden = map.dataset.map !== word.dataset.word;
  }
  const more = event.target.closest("[data-next]");
  if (more) page(more);
  const button = event.target.closest("[data-act]");
  const shown = document.querySelector(".gc-grid")?.children.length ?? 0;
  if (button) trigger("act", { act: button.dataset.act, id: button.dataset.id || "", shown });
});

// The next page of results, below those that are there.
const page = async (button) => {
  if (button.ariaBusy) return;
  button.ariaBusy = "true";
  try {
    const answer = await fetch(`more?${button.dataset.next}`);
    const found = await answer.json();
    if (found.error) throw found.error;
    if (!button.isConnected) return; // another query has been asked
    const hasFocus = document.activeElement === button;
    const grids = element.querySelectorAll(".gc-grid");
    const before = grids[0].children.length;
    found.grids.forEach((cards, place) => grids[place].insertAdjacentHTML("beforeend", cards));
    button.outerHTML = found.more;
    if (hasFocus) grids[0].children[before]?.querySelector("button").focus();
  } catch (error) {
    button.ariaBusy = null;
    button.dataset.failed = ""; // a click tries again, scrolling does not
    button.textContent = typeof error === "string" ? error : "No results came; try again";
  }
};

document.addEventListener(
  "scroll",
  () => {
    const more = element.querySelector("[data-next]:not([data-failed])");
    if (more && more.getBoundingClientRect().top < innerHeight) page(more);
  },
  { capture: true, passive: true },
);

for (const kind of ["mouseover", "focusin"])
  element.addEventListener(kind, (event) => {
    const word = event.target.closest("[data-word]");
    if (word && word.getAttribute("aria-pressed") === "false") word.click();
  });

const take = async (file) => {
  if (!file) return;
  const most = MOST_BYTES;
  const size = (bytes) => (bytes / 1e6).toFixed(1);
  if (file.size > most)
    return say(`The file has ${size(file.size)} MB; give a picture of at most ${most / 1e6} MB.`);
  say("Reading the picture.");
  try {
    const answer = await fetch("upload", { method: "POST", body: file });
    const found = await answer.json();
    say(found.error || "");
    if (found.picture) trigger("act", { act: "reference", id: found.picture });
  } catch {
    say("The picture did not arrive; try again.");
  }
};

if (element.querySelector(".gc-drop")) {
  element.addEventListener("change", (event) => {
    if (event.target.type === "file") take(event.target.files[0]);
  });
  for (const kind of ["dragover", "drop"])
    element.addEventListener(kind, (event) => {
      event.preventDefault();
      if (kind === "drop") take(event.dataTransfer.files[0]);
    });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) {
      event.preventDefault();
      take(file);
    }
  });
}
