// The page: a queue of pictures, one of them shown with its segments.
import * as api from "./api.js";
import { describe, showCost, showLabels, showPrograms, showSegments } from "./panels.js";
import { toBitmap, View } from "./view.js";

const FORMATS = {
  json: "JSON, COCO RLE", geojson: "GeoJSON (QuPath, QGIS)", csv: "Table (CSV)", overlay_png: "Overlay, PNG", overlay_webp: "Overlay, WebP",
  coco_panoptic: "COCO panoptic", coco_results: "COCO results", rle_counts: "COCO results, run lengths", semantic_png: "Label map, PNG",
  semantic_colours: "Label map in colours", confidence_png: "Confidence, PNG (semantic)",
  ids_png: "Segment ids, 16-bit PNG", ids_tiff: "Segment ids, 16-bit TIFF", masks: "One PNG per segment",
};
const find = (id) => document.getElementById(id);
const pictures = []; // {name, blob, answers: {"model task": answer}, running: {"model task": promise}, error, refused: for want of a key}
let shown = null;
let served = []; // models of the server, the one for requests that name none first
let hiddenLabels = new Set();

const view = new View(find("stage"), hover);

function hover(index, event) {
  const tip = find("tip");
  tip.hidden = index < 0;
  if (index >= 0) {
    tip.textContent = describe(current().segments[index]);
    const box = find("stage").getBoundingClientRect();
    tip.style.left = `${Math.min(event.clientX - box.left + 12, box.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(0, event.clientY - box.top - 34)}px`;
  }
  highlight(index);
}

function highlight(index) {
  if (view.highlight !== index + 1) view.set({ highlight: index + 1 });
}

const task = () => document.querySelector('input[name="task"]:checked').value;
const model = () => served[find("models").selectedIndex];
/** What every request names: the model only where there are several. */
const parameters = () => ({ task: task(), ...(served.length > 1 ? { model: model().name } : {}) });
const asked = () => `${parameters().model ?? ""} ${task()}`;
const current = () => shown?.answers[asked()];

function say(status, error = "") {
  find("status").textContent = status;
  find("error").textContent = error;
  find("error").hidden = !error;
}

/** Ask for a picture's segments of the chosen model and task, unless they are there or on their way. */
async function compute(picture) {
  const wanted = asked();
  if (picture.answers[wanted]) return;
  picture.running[wanted] ??= ask(picture, wanted).finally(() => delete picture.running[wanted]);
  await picture.running[wanted];
}

async function ask(picture, wanted) {
  say(`Segmenting ${picture.name} …`);
  try {
    picture.answers[wanted] = await api.segment(picture.blob, parameters());
    picture.error = "";
    picture.refused = false;
    say(`${picture.name}: ${picture.answers[wanted].segments.length} segments`);
  } catch (problem) {
    picture.error = problem.message;
    picture.refused = problem.status === 401;
    if (picture.refused) {
      find("key-form").hidden = false;
      find("key").focus();
    }
    say("", `${picture.name}: ${problem.message}`);
  }
  showQueue();
}

/** Show the first of some pictures, and compute the others behind it, one after the other. */
async function work(some) {
  await show(some[0]);
  for (const picture of some) {
    if (picture.refused) return; // the others would be refused as well; they wait for the key
    await compute(picture);
  }
  if (some.length > 1) say(`${some.filter((picture) => !picture.error).length} of ${some.length} pictures done`);
}

async function show(picture) {
  shown = picture;
  showQueue();
  await listed;
  const wanted = asked();
  await compute(picture);
  if (shown !== picture || asked() !== wanted) return;
  // After an error the picture stays, without masks: another task or model may do.
  find("viewer").hidden = !current() && view.picture !== picture;
  find("results").hidden = !current();
  if (!current()) {
    if (view.picture === picture) view.setSegments([], []);
    return;
  }
  if (view.picture !== picture) {
    let bitmap;
    try {
      bitmap = await toBitmap(picture.blob);
    } catch {
      bitmap = await toBitmap(await api.shown(picture.blob)); // a kind that the browser cannot show
    }
    if (shown !== picture || !current()) return;
    view.picture = picture;
    view.setPicture(bitmap);
  }
  showAnswer();
}

function visible() {
  const least = Number(find("score").value);
  const { segments } = current();
  return segments
    .map((segment, index) => index)
    .filter((index) => segments[index].score >= least && !hiddenLabels.has(segments[index].label))
    .sort((a, b) => segments[a].score - segments[b].score);
}

function showAnswer() {
  const answer = current();
  const { segments } = answer;
  showLabels(find("labels"), segments, hiddenLabels, (label, on) => {
    if (on) hiddenLabels.delete(label);
    else hiddenLabels.add(label);
    filter();
  });
  view.setSegments(segments, visible());
  listSegments();
  showCost(find("cost"), answer);
  showPrograms(find("curl"), find("python"), shown.name, parameters(), api.apiKey.get() !== "");
}

function filter() {
  find("score-value").textContent = Number(find("score").value).toFixed(2);
  if (!current()) return;
  view.setVisible(visible());
  listSegments();
}

function listSegments() {
  const chosen = visible();
  find("count").textContent = `(${chosen.length} of ${current().segments.length})`;
  showSegments(find("segments"), current().segments, chosen, highlight);
}

function showQueue() {
  const focused = [...find("queue").querySelectorAll("button")].indexOf(document.activeElement);
  find("queue").replaceChildren(
    ...pictures.map((picture) => {
      const button = document.createElement("button");
      button.type = "button";
      const done = Object.keys(picture.answers).length;
      button.textContent = `${picture.error ? "✗" : done ? "✓" : "…"} ${picture.name}`;
      button.className = picture.error ? "failed" : "";
      button.title = picture.error || picture.name;
      button.setAttribute("aria-current", String(picture === shown));
      button.addEventListener("click", () => show(picture));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  // The buttons are new ones: who works with the keyboard stays where they were.
  if (focused >= 0) find("queue").querySelectorAll("button")[focused].focus();
}

/** Put pictures into the queue. */
async function add(files) {
  const added = [...files].map((file) => ({ name: file.name || "pasted.png", blob: file, answers: {}, running: {}, error: "", refused: false }));
  if (!added.length) return;
  pictures.push(...added);
  await work(added);
}

find("file").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    find("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => event.relatedTarget ?? find("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  find("drop").classList.remove("over");
  add(event.dataTransfer.files);
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.addEventListener("click", async () => {
    const { sample } = button.dataset;
    try {
      add([new File([await api.sample(sample)], sample)]);
    } catch (problem) {
      say("", problem.message);
    }
  });
}
for (const radio of document.querySelectorAll('input[name="task"]')) radio.addEventListener("change", () => shown && show(shown));
find("models").addEventListener("change", () => {
  showModel();
  if (shown) show(shown);
});
find("score").addEventListener("input", filter);
find("opacity").addEventListener("input", (event) => view.set({ opacity: Number(event.target.value) }));
find("outlines").addEventListener("change", (event) => view.set({ outlines: event.target.checked }));
find("zoom-in").addEventListener("click", () => view.zoomBy(1.5));
find("zoom-out").addEventListener("click", () => view.zoomBy(1 / 1.5));
find("zoom-fit").addEventListener("click", () => view.fit());
find("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  api.apiKey.set(find("key").value.trim());
  find("key-form").hidden = true;
  listed = listModels();
  await listed;
  const waiting = pictures.filter((picture) => picture.refused || !(picture.error || Object.keys(picture.answers).length));
  for (const picture of waiting) picture.refused = false;
  if (waiting.length) work(waiting);
});
find("download").addEventListener("click", async () => {
  if (!shown) return;
  say("Preparing the file …");
  try {
    const { blob, name } = await api.file(shown.blob, { ...parameters(), format: find("format").value });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob) });
    link.download = `${shown.name.replace(/\.[^.]*$/, "")}-${name}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    say(`${link.download}: ${Math.ceil(blob.size / 1000)} kB`);
  } catch (problem) {
    say("", problem.message);
  }
});
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    say((await copy(find(button.dataset.copy))) ? "Copied." : "The text is selected: copy it with Ctrl+C.");
  });
}

/** Copy an element's text; whether that worked. Else it is selected. */
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    // Browsers give the clipboard to pages from https and localhost alone.
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}
find("format").replaceChildren(...Object.entries(FORMATS).map(([value, text]) => new Option(text, value)));

/** What the chosen model is, and the tasks that it can do. */
function showModel() {
  const { name, categories, backbone, encoder, layers, tasks } = model();
  find("model").textContent = `${name}: ${categories.length} labels, ${backbone} and ${encoder} (${layers.join(", ")})`;
  const radios = [...document.querySelectorAll('input[name="task"]')];
  for (const radio of radios) radio.disabled = !tasks.includes(radio.value);
  if (!tasks.includes(task())) radios.find((radio) => !radio.disabled).checked = true;
}

async function listModels() {
  try {
    served = (await api.models()).models;
  } catch (problem) {
    find("key-form").hidden = problem.status !== 401;
    return;
  }
  find("models").replaceChildren(...served.map(({ name }) => new Option(name)));
  find("model-choice").hidden = served.length < 2;
  showModel();
}

let listed = listModels();
