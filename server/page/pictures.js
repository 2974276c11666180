// Pictures: read from files, inspected by the server, and drawn as the vision tower saw them.

import { request } from "./api.js";

const EDGE = 288; // pixels of the longest edge of a drawn picture

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** A picture of the conversation: its name, its data URL, and what the server says of it. */
export class Picture {
  static async from(file) {
    const picture = new Picture();
    picture.name = file.name || "pasted picture";
    picture.url = await read(file);
    picture.report = null;
    return picture;
  }

  /** What it would cost. Raises ApiError if the server cannot read it. */
  async inspect() {
    const response = await request("v1/images/inspect", { url: this.url });
    this.inspection = await response.json();
    return this.inspection;
  }

  /** A small image with its cost, for the list of attached ones. */
  thumbnail(onRemove) {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.src = this.url;
    image.alt = this.name;
    // The browser cannot show every format that the server reads.
    image.addEventListener("error", () => image.remove());
    const text = document.createElement("span");
    const { source, tokens } = this.inspection;
    text.textContent = `${this.name}: ${source.width}×${source.height}, ${tokens} tokens `;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "small";
    remove.textContent = "Remove";
    remove.setAttribute("aria-label", `Remove ${this.name}`);
    remove.addEventListener("click", () => onRemove(this));
    item.append(image, text, remove);
    return item;
  }

  /** The picture with the patch grid over it, and a line that says what became of it. */
  figure() {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", this.name);
    const caption = document.createElement("figcaption");
    figure.append(canvas, caption);
    const image = new Image();
    this.#measure(canvas);
    image.onload = () => this.#draw(canvas, image);
    image.onerror = () => canvas.remove();
    image.src = this.url;
    caption.textContent = this.report ? this.#caption() : this.name;
    return figure;
  }

  #caption() {
    const { source, encoded, grid, tokens, tiles, cached, decode_ms, encode_ms } = this.report;
    const size = (one) => `${one.width}×${one.height}`;
    const cut = tiles > 1 ? ` in ${tiles} tiles` : "";
    const time = cached ? "taken from the cache" : `encoded in ${Math.round(encode_ms)} ms`;
    return `${size(source)} → ${size(encoded)}${cut}, ${size(grid)} grid, ${tokens} tokens; ` +
      `decoded in ${Math.round(decode_ms)} ms, ${time}`;
  }

  /** Tiles are cut from the picture itself; one square is padded, and the padding is encoded too. */
  #frame() {
    const { report, inspection } = this;
    return report?.tiles === 1 ? report.encoded : inspection.source;
  }

  /** Takes its place before the picture is there, so that nothing moves later. */
  #measure(canvas) {
    const frame = this.#frame();
    const scale = EDGE / Math.max(frame.width, frame.height);
    canvas.width = Math.max(1, Math.round(frame.width * scale));
    canvas.height = Math.max(1, Math.round(frame.height * scale));
  }

  #draw(canvas, image) {
    const { report } = this;
    const frame = this.#frame();
    const inner = report?.tiles === 1 ? report.resized : frame;
    const context = canvas.getContext("2d");
    context.fillStyle = "#7f7f7f";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const width = canvas.width * inner.width / frame.width;
    const height = canvas.height * inner.height / frame.height;
    context.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
    if (report) drawGrid(canvas, context, report.grid);
    canvas.dataset.cells = report ? String(report.grid.width * report.grid.height) : "";
  }
}

function drawGrid(canvas, context, grid) {
  // Dark under light: visible on any picture.
  for (const [colour, offset] of [["rgba(0,0,0,.45)", 1], ["rgba(255,255,255,.6)", 0]]) {
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    for (let column = 1; column < grid.width; column += 1) {
      const x = Math.round(column * canvas.width / grid.width) + offset + 0.5;
      context.moveTo(x, 0);
      context.lineTo(x, canvas.height);
    }
    for (let row = 1; row < grid.height; row += 1) {
      const y = Math.round(row * canvas.height / grid.height) + offset + 0.5;
      context.moveTo(0, y);
      context.lineTo(canvas.width, y);
    }
    context.stroke();
  }
}
