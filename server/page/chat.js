// The conversation: what was said, what is being said, and the form for the next message.

import { ApiError, events, request } from "./api.js";
import { Picture } from "./pictures.js";

const $ = (id) => document.getElementById(id);
const turns = []; // { role, text, pictures, cost }
let attached = [];
let model = "";
let running = null; // AbortController of the stream

// ---- Drawing. Texts are set as text, never as HTML: a model can write anything.

function turnItem(turn) {
  const item = document.createElement("li");
  item.className = turn.role;
  const role = document.createElement("p");
  role.className = "role";
  role.textContent = turn.role === "user" ? "You" : "Model";
  const figures = document.createElement("div");
  figures.className = "figures";
  figures.append(...turn.pictures.map((picture) => picture.figure()));
  const text = document.createElement("p");
  text.className = "text";
  text.textContent = turn.text;
  item.append(role, figures, text, ...extras(turn));
  return item;
}

function extras(turn) {
  const cost = document.createElement("p");
  cost.className = "cost";
  cost.textContent = turn.cost ?? "";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small";
  if (turn.role === "assistant") {
    button.textContent = "Copy";
    button.addEventListener("click", () => navigator.clipboard.writeText(turn.text));
  } else {
    button.textContent = "Edit";
    button.disabled = running !== null;
    button.addEventListener("click", () => edit(turn));
  }
  return turn.role === "assistant" && !turn.text ? [cost] : [cost, button];
}

function draw() {
  $("conversation").replaceChildren(...turns.map(turnItem));
  $("hint").hidden = turns.length > 0;
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
  $("again").disabled = running !== null || turns.at(-1)?.role !== "assistant";
  $("clear").disabled = running !== null || turns.length === 0;
  $("attached").replaceChildren(...attached.map((picture) => picture.thumbnail(detach)));
  window.scrollTo({ top: document.body.scrollHeight });
}

function show(error) {
  $("error").textContent = error === null ? "" : error.message;
}

// ---- Pictures on their way in.

async function attach(files) {
  show(null);
  for (const file of files) {
    try {
      const picture = await Picture.from(file);
      await picture.inspect();
      attached.push(picture);
    } catch (error) {
      show(new Error(`${file.name || "the picture"}: ${error.message}`));
    }
  }
  draw();
  $("question").focus();
}

function detach(picture) {
  attached = attached.filter((other) => other !== picture);
  draw();
}

// ---- Asking.

function content(turn) {
  if (turn.pictures.length === 0) return turn.text;
  const detail = $("detail").value;
  return [
    ...turn.pictures.map(({ url }) => ({ type: "image_url", image_url: { url, detail } })),
    { type: "text", text: turn.text },
  ];
}

function body() {
  const system = $("system").value.trim();
  const said = turns.map((turn) => ({ role: turn.role, content: content(turn) }));
  return {
    model,
    messages: [...(system ? [{ role: "system", content: system }] : []), ...said],
    temperature: Number($("temperature").value),
    max_tokens: Number($("max-tokens").value),
    stream: true,
    stream_options: { include_usage: true },
  };
}

function cost(usage, started, first) {
  const details = usage.prompt_tokens_details ?? {};
  const seconds = (performance.now() - (first ?? started)) / 1000;
  const pace = usage.completion_tokens > 1 ? (usage.completion_tokens - 1) / seconds : 0;
  return `${usage.prompt_tokens} prompt tokens (${details.image_tokens ?? 0} of pictures, ` +
    `${details.cached_tokens ?? 0} cached), first token after ` +
    `${(((first ?? performance.now()) - started) / 1000).toFixed(2)} s, ` +
    `${usage.completion_tokens} tokens${pace ? ` at ${pace.toFixed(1)} a second` : ""}`;
}

function takeReports(reports) {
  const pictures = turns.flatMap((turn) => turn.pictures);
  reports.forEach((report, index) => { pictures[index].report = report; });
}

async function answer() {
  show(null);
  const request_body = body();
  const turn = { role: "assistant", text: "", pictures: [] };
  turns.push(turn);
  running = new AbortController();
  draw();
  const started = performance.now();
  let first = null;
  try {
    const response = await request("v1/chat/completions", request_body, running.signal);
    for await (const chunk of events(response)) {
      if (chunk.images) takeReports(chunk.images);
      if (chunk.usage) turn.cost = cost(chunk.usage, started, first);
      const piece = chunk.choices[0]?.delta?.content;
      if (!piece) continue;
      first ??= performance.now();
      turn.text += piece;
      $("conversation").lastElementChild.querySelector(".text").textContent = turn.text;
    }
  } catch (error) {
    if (error.name === "AbortError") turn.cost = "stopped";
    else show(error);
    if (!turn.text) turns.pop();
  } finally {
    running = null;
    draw();
  }
}

function send() {
  if (running) return;
  const text = $("question").value.trim() || (attached.length ? "Describe the picture." : "");
  if (!text) return;
  turns.push({ role: "user", text, pictures: attached });
  attached = [];
  $("question").value = "";
  answer();
}

function again() {
  turns.pop();
  answer();
}

/** Takes a message and all that came after it back into the form. */
function edit(turn) {
  turns.splice(turns.indexOf(turn));
  attached = turn.pictures;
  $("question").value = turn.text;
  draw();
  $("question").focus();
}

// ---- The model, and what the page listens to.

async function begin() {
  try {
    const { data } = await (await request("v1/models")).json();
    model = data[0].id;
    const vision = data[0].meta.vision;
    const sees = vision ? `sees ${vision.image_size} px` : "has no vision tower";
    $("model").textContent = `${model}, ${sees}, context ${data[0].meta.n_ctx} tokens`;
  } catch (error) {
    const waits = error instanceof ApiError && error.status === 503;
    $("model").textContent = waits ? "the model is loading…" : error.message;
    setTimeout(begin, 1000);
  }
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("stop").addEventListener("click", () => running?.abort());
$("again").addEventListener("click", again);
$("clear").addEventListener("click", () => { turns.length = 0; show(null); draw(); });
$("pick").addEventListener("change", async (event) => {
  await attach([...event.target.files]);
  event.target.value = "";
});
$("pick-label").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") $("pick").click();
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) attach(files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("composer").classList.add("over");
});
document.addEventListener("dragleave", () => $("composer").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("composer").classList.remove("over");
  attach([...event.dataTransfer.files]);
});
draw();
begin();
