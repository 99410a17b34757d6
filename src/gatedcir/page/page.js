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
  const button = event.target.closest("[data-act]");
  if (button) trigger("act", { act: button.dataset.act, id: button.dataset.id || "" });
});

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
